# A teacher of Cityscapes' classes that runs within milliseconds, on images of
# any size, which it sees as they are.
_base_ = ['../test_tools/tiny_cityscapes.py']
crop_size = (16, 24)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
root = 'data/cityscapes'
train_dataloader = dict(dataset=dict(data_root=root))
val_dataloader = dict(dataset=dict(data_root=root, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    decode_head=dict(
        _delete_=True,
        type='HierarchicalMSAttentionHead',
        seg_head=_base_.model.decode_head.seg_head[0],
        attn_channels=8,
        loss_scale=None,
    ),
)
