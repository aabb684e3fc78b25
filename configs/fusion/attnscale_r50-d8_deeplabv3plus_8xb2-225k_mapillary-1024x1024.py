# Table 1, explicit: attention to scale (Chen et al. 2016), trained at the
# three scales it is tested at.
_base_ = './deeplabv3plus_r50-d8_8xb2-225k_mapillary-1024x1024.py'
scales = (0.5, 1.0, 2.0)
model = dict(
    type='MultiScaleAttentionSegmentor',
    decode_head=dict(
        _delete_=True,
        type='AttentionToScaleHead',
        seg_head=_base_.model.decode_head,
        num_scales=3,
        attn_channels=256,  # network/attnscale.py: ASDV3P, bn_head
    ),
    train_cfg=dict(scales=scales),
    test_cfg=dict(mode='whole', scales=scales, classes_only=True),
)
