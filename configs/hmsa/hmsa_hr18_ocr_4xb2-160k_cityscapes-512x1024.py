# The zoo's ocrnet_hr18_4xb2-160k_cityscapes-512x1024 with hierarchical
# multi-scale attention: every other setting is the zoo's.
_base_ = [
    '../_base_/models/hmsa_ocr_hr18.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_160k.py',
]
crop_size = (512, 1024)
data_preprocessor = dict(size=crop_size)
model = dict(data_preprocessor=data_preprocessor)
