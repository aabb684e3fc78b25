# Table 1, average pooling: the single-scale model, its logits averaged over
# the scales. Training is that of a single scale, whose checkpoint it takes.
_base_ = './deeplabv3plus_r50-d8_8xb2-225k_mapillary-1024x1024.py'
model = dict(
    type='MultiScaleAttentionSegmentor',
    decode_head=dict(
        _delete_=True,
        type='MultiScaleAverageHead',
        seg_head=_base_.model.decode_head,
    ),
    train_cfg=dict(scales=(1.0,)),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0), classes_only=True),
)
