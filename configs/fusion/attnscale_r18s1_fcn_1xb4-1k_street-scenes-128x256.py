# The demo's single-scale model with attention to scale (Chen et al. 2016);
# width of the attention and loss of each scale are those of the demo's
# hierarchical model.
_base_ = '../demo/fcn_r18s1_1xb4-1k_street-scenes-128x256.py'
scales = (0.5, 1.0, 2.0)
model = dict(
    type='MultiScaleAttentionSegmentor',
    decode_head=dict(
        _delete_=True,
        type='AttentionToScaleHead',
        seg_head=_base_.model.decode_head,
        num_scales=3,
        attn_channels=24,
        loss_scale=dict(type='CrossEntropyLoss', loss_weight=0.05),
    ),
    train_cfg=dict(scales=scales),
    test_cfg=dict(mode='whole', scales=scales),
)
# Flips only: the model blends the scales itself.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='RandomFlip', prob=0.0),
                dict(type='RandomFlip', prob=1.0),
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
