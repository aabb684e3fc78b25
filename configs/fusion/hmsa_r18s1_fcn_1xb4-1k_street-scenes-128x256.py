# Hierarchical attention, trained as for Table 1 of the paper.
_base_ = '../demo/fcn_r18s1_1xb4-1k_street-scenes-128x256.py'
model = dict(
    type='MultiScaleAttentionSegmentor',
    decode_head=dict(
        _delete_=True,
        type='HierarchicalMSAttentionHead',
        seg_head=_base_.model.decode_head,
        attn_channels=24,  # narrow, as the seg head is
        # The authors' loss on every single scale, with their weight
        # (SUPERVISED_MSCALE_WT).
        loss_scale=dict(type='CrossEntropyLoss', loss_weight=0.05),
    ),
    train_cfg=dict(scales=(0.5, 1.0)),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
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
