# The demo's single-scale model, its logits averaged over the scales; it
# takes the checkpoint of that model.
_base_ = '../demo/fcn_r18s1_1xb4-1k_street-scenes-128x256.py'
model = dict(
    type='MultiScaleAttentionSegmentor',
    decode_head=dict(
        _delete_=True,
        type='MultiScaleAverageHead',
        seg_head=_base_.model.decode_head,
    ),
    train_cfg=dict(scales=(1.0,)),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
# Flips only: the model averages the scales itself.
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
