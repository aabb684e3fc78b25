# HRNet-W48 + OCR, wrapped. Backbone and seg heads are the zoo's OCRNet (mmseg
# configs/ocrnet/ocrnet_hr48_*.py), so the two differ in the method alone.
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='MultiScaleAttentionSegmentor',
    data_preprocessor=data_preprocessor,
    pretrained='open-mmlab://msra/hrnetv2_w48',
    backbone=dict(
        # mmseg's HRNet, equal to the authors' at any input size too.
        type='SingleResizeHRNet',
        norm_cfg=norm_cfg,
        norm_eval=False,
        extra=dict(
            stage1=dict(
                num_modules=1,
                num_branches=1,
                block='BOTTLENECK',
                num_blocks=(4,),
                num_channels=(64,),
            ),
            stage2=dict(
                num_modules=1,
                num_branches=2,
                block='BASIC',
                num_blocks=(4, 4),
                num_channels=(48, 96),
            ),
            stage3=dict(
                num_modules=4,
                num_branches=3,
                block='BASIC',
                num_blocks=(4, 4, 4),
                num_channels=(48, 96, 192),
            ),
            stage4=dict(
                num_modules=3,
                num_branches=4,
                block='BASIC',
                num_blocks=(4, 4, 4, 4),
                num_channels=(48, 96, 192, 384),
            ),
        ),
    ),
    decode_head=dict(
        type='HierarchicalMSAttentionHead',
        seg_head=[
            dict(
                type='FCNHead',
                in_channels=[48, 96, 192, 384],
                channels=720,  # sum of the in_channels
                input_transform='resize_concat',
                in_index=(0, 1, 2, 3),
                kernel_size=1,
                num_convs=1,
                concat_input=False,
                dropout_ratio=-1,
                num_classes=19,
                norm_cfg=norm_cfg,
                align_corners=False,
                loss_decode=dict(
                    type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4
                ),
            ),
            dict(
                type='OCRHead',
                in_channels=[48, 96, 192, 384],
                channels=512,
                ocr_channels=256,
                input_transform='resize_concat',
                in_index=(0, 1, 2, 3),
                dropout_ratio=-1,
                num_classes=19,
                norm_cfg=norm_cfg,
                align_corners=False,
                loss_decode=dict(
                    type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0
                ),
            ),
        ],
        attn_channels=256,  # authors' config.py: MODEL.SEGATTN_BOT_CH
    ),
    # As in the paper: two scales in training, any number when testing.
    # Statistics of both scales fit neither (docs/training.md).
    train_cfg=dict(scales=(0.5, 1.0), stats_scale=1.0),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
