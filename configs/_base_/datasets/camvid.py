# CamVid as it is distributed with SegNet (docs/camvid.md): 367 / 101 / 233
# images of 360x480, 11 classes.
dataset_type = 'HMSACamVidDataset'
data_root = 'data/camvid/'
# Smaller than the images: what a core trains in half an hour.
crop_size = (192, 256)
# Root of the median frequency of a class over its own, among the labelled
# pixels of the training split; without weights bicyclist, sign, pole and
# pedestrian are still at 0 % after 500 iterations, with them at 12 to 51 %.
class_weight = [
    *(0.52, 0.44, 2.14, 0.38, 1.0, 0.68, 1.96, 2.0, 0.87, 2.65, 3.92)
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=11),
    dict(
        type='RandomResize',
        scale=(480, 360),
        ratio_range=(0.5, 2.0),  # as for Cityscapes in the zoo
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
# For a model that is trained on: images of the size that they are tested at.
finetune_pipeline = [
    dict(step, ratio_range=(1.0, 1.0)) if 'ratio_range' in step else step
    for step in train_pipeline
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=11),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    # Workers would take time from the core that trains.
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='val',
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], split='test')
)
val_evaluator = dict(type='CompactIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
