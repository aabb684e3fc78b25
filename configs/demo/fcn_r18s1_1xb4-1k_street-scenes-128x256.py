# The demo's single-scale model, all of it mmseg's own: the stem and first
# stage of a ResNet-18 and an FCN head. At stride 4 it sees about 50 px around
# each pixel: less than a band of the facades is wide (44 to 84 px).
_base_ = [
    '../_base_/datasets/street_scenes.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_demo.py',
]
crop_size = (128, 256)
num_classes = 9
channels = 32  # what two CPU cores train in minutes
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size=crop_size,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    pretrained=None,
    backbone=dict(
        type='ResNet',
        depth=18,
        num_stages=1,
        stem_channels=channels,
        base_channels=channels,
        strides=(1,),
        dilations=(1,),
        out_indices=(0,),
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=channels,
        in_index=0,
        channels=channels,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0,  # the training is short
        num_classes=num_classes,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
