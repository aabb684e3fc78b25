# The authors' Cityscapes recipe, as it is but for sizes: a network, crops and
# tiles that a CPU trains within seconds. The test fills in the folders.
_base_ = (
    '../../configs/hmsa/'
    'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py'
)
crop_size = (64, 128)
norm_cfg = dict(type='BN')
heads = _base_.model.decode_head.seg_head
narrow = dict(
    in_channels=16,
    in_index=1,
    input_transform=None,
    channels=8,
    norm_cfg=norm_cfg,
)
model = dict(
    data_preprocessor=dict(size=crop_size),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        num_stages=2,
        stem_channels=8,
        base_channels=8,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(0, 1),
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        attn_channels=8,
        seg_head=[
            dict(heads[0], **narrow),
            dict(heads[1], **narrow, ocr_channels=8),
        ],
    ),
)
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = (128, 64)
train_pipeline[3].crop_size = crop_size
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(tile_size=64),
    dataset=dict(dataset=dict(pipeline=train_pipeline)),
)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper')  # without a GPU
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
