# Table 1, hierarchical: trained at two scales, tested at any; the fourth
# scale of the paper's last row is an option,
# `model.test_cfg.scales=(0.25,0.5,1.0,2.0)`.
_base_ = './deeplabv3plus_r50-d8_8xb2-225k_mapillary-1024x1024.py'
model = dict(
    type='MultiScaleAttentionSegmentor',
    decode_head=dict(
        _delete_=True,
        type='HierarchicalMSAttentionHead',
        seg_head=_base_.model.decode_head,
        attn_channels=256,  # authors' config.py: MODEL.SEGATTN_BOT_CH
    ),
    train_cfg=dict(scales=(0.5, 1.0), stats_scale=None),
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0), classes_only=True),
)
