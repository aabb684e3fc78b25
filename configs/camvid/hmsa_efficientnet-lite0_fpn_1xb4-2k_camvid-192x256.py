# Hierarchical attention, all trained together from ImageNet weights, as in the
# paper: the single-scale model and its recipe, with the segmentor, the head
# and the scales exchanged and nothing else. Training in two steps is better
# (docs/camvid.md).
_base_ = './fpn_efficientnet-lite0_1xb4-2k_camvid-192x256.py'
model = dict(
    type='MultiScaleAttentionSegmentor',
    decode_head=dict(
        _delete_=True,
        type='HierarchicalMSAttentionHead',
        seg_head=_base_.model.decode_head,
        loss_scale=dict(_base_.model.decode_head.loss_decode, loss_weight=0.4),
    ),
    # As in the paper: two scales in training, any number when testing.
    # Statistics of both scales fit neither.
    train_cfg=dict(scales=(0.5, 1.0), stats_scale=1.0),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
