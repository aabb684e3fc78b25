# Hierarchical attention: all of the trained single-scale model trained on at
# the scales of the test and half of the lowest, as by
# `hmsa add-attention --finetune`, for as long as 530 iterations at one
# scale take.
_base_ = './fpn_efficientnet-lite0_1xb4-2k_camvid-192x256.py'
# Where train.py puts it unless it is told otherwise.
load_from = (
    'work_dirs/fpn_efficientnet-lite0_1xb4-2k_camvid-192x256/iter_2000.pth'
)
model = dict(
    type='MultiScaleAttentionSegmentor',
    backbone=dict(init_cfg=None),  # load_from has these weights
    decode_head=dict(
        _delete_=True,
        type='HierarchicalMSAttentionHead',
        seg_head=_base_.model.decode_head,
    ),
    train_cfg=dict(scales=(0.25, 0.5, 1.0, 2.0), norm_eval=True),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
train_dataloader = dict(dataset=dict(pipeline=_base_.finetune_pipeline))
optim_wrapper = dict(
    optimizer=dict(lr=3e-4),
    # The attention is new.
    paramwise_cfg=dict(custom_keys=dict(scale_attn=dict(lr_mult=10.0))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=10, by_epoch=False),
    dict(
        type='PolyLR', eta_min=0, power=0.9, begin=10, end=100, by_epoch=False
    ),
]
train_cfg = dict(max_iters=100, val_interval=100)
