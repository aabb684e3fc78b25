# Multi-scale attention for a trained OCRNet of the zoo: everything but the
# attention branch stays as it is. It is trained at the scales of the test and
# half of the lowest, on images of the test's size, in a twentieth of the zoo
# model's iterations, as was found on CamVid (docs/camvid.md).
_base_ = './hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024.py'
# The zoo's ocrnet_hr48_4xb2-160k_cityscapes-512x1024 (its metafile); a local
# file of any OCRNet-HRNet48 with the same classes serves as well.
load_from = 'https://download.openmmlab.com/mmsegmentation/v0.5/ocrnet/ocrnet_hr48_512x1024_160k_cityscapes/ocrnet_hr48_512x1024_160k_cityscapes_20200602_191037-dfbf1b0c.pth'
model = dict(
    pretrained=None,
    train_cfg=dict(
        scales=(0.25, 0.5, 1.0, 2.0), attention_only=True, stats_scale=None
    ),
)
train_pipeline = [
    _base_.test_pipeline[1] if step['type'] == 'RandomResize' else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
# Three times the zoo model's: the attention is new.
optim_wrapper = dict(optimizer=dict(lr=0.03))
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-4,
        power=0.9,
        begin=0,
        end=8000,
        by_epoch=False,
    )
]
train_cfg = dict(max_iters=8000, val_interval=800)
default_hooks = dict(checkpoint=dict(interval=800))
