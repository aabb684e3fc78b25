# The loop of `make autolabel-demo`: the network of the demo's hierarchical
# model, trained on the few scenes that have fine labels. Like those that
# derive from it, it goes on from the weights of autolabel-start (load_from).
_base_ = [
    '../_base_/datasets/street_scenes_autolabel.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_demo.py',
]
crop_size = _base_.crop_size
channels = 32  # what two CPU cores train in minutes
norm_cfg = dict(type='BN', requires_grad=True)
# Coarse labels and thresholds leave out pixels, more or less of an image: the
# loss is the mean over those that count, as in the authors' training.
loss = dict(type='CrossEntropyLoss', avg_non_ignore=True)
model = dict(
    type='MultiScaleAttentionSegmentor',
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
        type='HierarchicalMSAttentionHead',
        seg_head=dict(
            type='FCNHead',
            in_channels=channels,
            in_index=0,
            channels=channels,
            num_convs=1,
            concat_input=False,
            dropout_ratio=0,  # the training is short
            num_classes=_base_.num_classes,
            norm_cfg=norm_cfg,
            align_corners=False,
            loss_decode=dict(loss, loss_weight=1.0),
        ),
        attn_channels=24,  # narrow, as the seg head is
        # Without the losses on single scales, which the authors weigh with
        # 0.05: here they take a quarter of the time.
        loss_scale=None,
    ),
    # As in the paper: two scales in training, any number when testing.
    train_cfg=dict(scales=(0.5, 1.0)),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)

# The demo's schedule, shorter: one validation at the end.
param_scheduler = [dict(_base_.param_scheduler[0], end=300)]
train_cfg = dict(max_iters=300, val_interval=300)
