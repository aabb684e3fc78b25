# Multi-scale attention for a trained OCRNet of the zoo: everything but the
# attention branch stays as it is. A quarter of the zoo model's iterations
# with its learning rate; neither has been tuned.
_base_ = './hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024.py'
# The zoo's ocrnet_hr48_4xb2-160k_cityscapes-512x1024 (its metafile); a local
# file of any OCRNet-HRNet48 with the same classes serves as well.
load_from = 'https://download.openmmlab.com/mmsegmentation/v0.5/ocrnet/ocrnet_hr48_512x1024_160k_cityscapes/ocrnet_hr48_512x1024_160k_cityscapes_20200602_191037-dfbf1b0c.pth'
model = dict(pretrained=None, train_cfg=dict(attention_only=True))
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-4,
        power=0.9,
        begin=0,
        end=40000,
        by_epoch=False,
    )
]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
