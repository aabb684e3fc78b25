# A model that trains within seconds on a CPU, on images of 64x128; everything
# else is the shipped bases'. The tests fill in the data roots.
_base_ = [
    '../../configs/_base_/datasets/cityscapes.py',
    '../../configs/_base_/default_runtime.py',
    '../../configs/_base_/schedules/schedule_40k.py',
]
crop_size = (64, 128)
# A high momentum: the statistics must settle within a few iterations.
norm_cfg = dict(type='BN', momentum=0.3)
model = dict(
    type='MultiScaleAttentionSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        seg_pad_val=255,
        size=crop_size,
    ),
    backbone=dict(
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
        type='HierarchicalMSAttentionHead',
        seg_head=[
            dict(
                type='FCNHead',
                in_channels=16,
                in_index=1,
                channels=8,
                num_convs=1,
                dropout_ratio=0,
                num_classes=19,
                norm_cfg=norm_cfg,
                loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
            ),
            dict(
                type='OCRHead',
                in_channels=16,
                in_index=1,
                channels=8,
                ocr_channels=8,
                dropout_ratio=0,
                num_classes=19,
                norm_cfg=norm_cfg,
                loss_decode=dict(type='CrossEntropyLoss'),
            ),
        ],
        attn_channels=8,
        loss_scale=dict(type='CrossEntropyLoss', loss_weight=0.05),
    ),
    train_cfg=dict(scales=(0.5, 1.0)),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
resize = dict(type='Resize', scale=(128, 64), keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(128, 64),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0] = [resize]
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=test_pipeline),
)
test_dataloader = val_dataloader
# With a smaller one, or other seeds, 8 iterations do not always suffice.
optim_wrapper = dict(optimizer=dict(lr=0.3))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, end=8, by_epoch=False)]
train_cfg = dict(max_iters=8, val_interval=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=4))
log_processor = dict(window_size=1)  # log each loss as it is
randomness = dict(seed=6)
