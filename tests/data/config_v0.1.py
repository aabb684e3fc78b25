# A tiny model as it was configured with version 0.1: OCRNet's heads and the
# recipe's losses, which took `num_classes` then.
default_scope = 'mmseg'
custom_imports = dict(imports=['hmsa_mmseg'], allow_failed_imports=False)
norm_cfg = dict(type='BN', requires_grad=True)
num_classes = 4
levels = dict(
    in_channels=[8, 16],
    in_index=(0, 1),
    input_transform='resize_concat',
    channels=16,
    num_classes=num_classes,
    norm_cfg=norm_cfg,
    align_corners=False,
)
model = dict(
    type='MultiScaleAttentionSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(32, 48),
        test_cfg=dict(size_divisor=1),
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
                kernel_size=1,
                num_convs=1,
                concat_input=False,
                loss_decode=dict(
                    type='RMILoss',
                    num_classes=num_classes,
                    with_rmi=False,
                    loss_weight=0.4,
                ),
                **levels,
            ),
            dict(
                type='OCRHead',
                ocr_channels=8,
                dropout_ratio=0.05,
                loss_decode=dict(type='RMILoss', num_classes=num_classes),
                **levels,
            ),
        ],
        attn_channels=8,
        loss_scale=dict(
            type='RMILoss',
            num_classes=num_classes,
            with_rmi=False,
            loss_weight=0.05,
        ),
    ),
    train_cfg=dict(scales=(0.5, 1.0)),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
