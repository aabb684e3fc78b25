# The single-scale model, tested at three scales, whose logits are averaged;
# it takes the single-scale model's checkpoint.
_base_ = './fpn_efficientnet-lite0_1xb4-2k_camvid-192x256.py'
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
