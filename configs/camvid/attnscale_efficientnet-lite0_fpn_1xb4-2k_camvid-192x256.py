# Explicit attention to scale (https://arxiv.org/abs/1511.03339): trained at
# all scales that it is tested at.
_base_ = './fpn_efficientnet-lite0_1xb4-2k_camvid-192x256.py'
model = dict(
    type='MultiScaleAttentionSegmentor',
    decode_head=dict(
        _delete_=True,
        type='AttentionToScaleHead',
        seg_head=_base_.model.decode_head,
        num_scales=3,
    ),
    train_cfg=dict(scales=(0.5, 1.0, 2.0)),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
