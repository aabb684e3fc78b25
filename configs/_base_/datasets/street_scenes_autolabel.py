# Generated scenes of the loop of `make autolabel-demo`: a small fine-labelled
# part, a larger one with coarse polygons and with labels of a teacher. What is
# trained on is chosen in configs/demo; here it is the fine part alone.
data_root = 'data/street_scenes_autolabel/'
crop_size = (128, 256)  # the size of the images
num_classes = 9
metainfo = dict(
    classes=(
        'road',
        'building',
        'wall',
        'pole',
        'traffic sign',
        'vegetation',
        'sky',
        'car',
        'truck',
    ),
    # Cityscapes' colours, but for the truck's: its blue is close to the car's.
    palette=[
        [128, 64, 128],
        [70, 70, 70],
        [102, 102, 156],
        [153, 153, 153],
        [220, 220, 0],
        [107, 142, 35],
        [70, 130, 180],
        [0, 0, 142],
        [220, 90, 40],
    ],
)
augmentation = [
    dict(
        type='RandomResize',
        scale=(256, 128),
        ratio_range=(0.5, 2.0),  # as for Cityscapes in the zoo
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=num_classes),
]
train_pipeline = [*load, *augmentation]
# The authors' code keeps labels from 0.5 on, their paper from 0.9 on
# (NVIDIA/semantic-segmentation, issue 62). It follows the loading of labels,
# see `autolabel_dataset`.
autolabel_pipeline = [
    *load,
    dict(type='ApplyConfidence', threshold=0.5, required=True),
    *augmentation,
]
test_pipeline = [*load, dict(type='PackSegInputs')]
# Flips only: the model blends the scales itself.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='RandomFlip', prob=0.0),
                dict(type='RandomFlip', prob=1.0),
            ],
            [dict(type='LoadSegLabels', num_classes=num_classes)],
            [dict(type='PackSegInputs')],
        ],
    ),
]

fine_dataset = dict(
    type='HMSACityscapesDataset',
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=dict(
        img_path='leftImg8bit/train', seg_map_path='gtFine/train'
    ),
    pipeline=train_pipeline,
)
coarse_dataset = dict(
    type='CityscapesCoarseDataset',
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=dict(
        img_path='leftImg8bit/train_extra',
        seg_map_path='gtCoarse/train_extra',
    ),
    pipeline=train_pipeline,
)
# What tools/autolabel.py writes with `--round 1`.
autolabel_dataset = dict(
    type='CityscapesAutoLabelDataset',
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=dict(
        img_path='leftImg8bit/train_extra',
        seg_map_path='autolabels/round_1',
    ),
    pipeline=autolabel_pipeline,
)

train_dataloader = dict(
    batch_size=4,
    # Workers would take time from the two cores that train.
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=fine_dataset,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='HMSACityscapesDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(
            img_path='leftImg8bit/val', seg_map_path='gtFine/val'
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='HMSACityscapesDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(
            img_path='leftImg8bit/test', seg_map_path='gtFine/test'
        ),
        pipeline=test_pipeline,
    ),
)

val_evaluator = dict(type='CompactIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# Not for training or testing: what tools/report.py compares
# auto-labels with.
fine_dataloader = dict(batch_size=1, dataset=fine_dataset)
coarse_dataloader = dict(batch_size=1, dataset=coarse_dataset)
