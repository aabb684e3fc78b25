# The demo's generated scenes (tools/dev/scenes.py): the Cityscapes
# layout and labels, with nine of the classes.
dataset_type = 'HMSACityscapesDataset'
data_root = 'data/street_scenes/'
crop_size = (128, 256)  # the size of the images
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
# No photometric distortion: it costs time and no scene needs it.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
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
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 128), keep_ratio=True),
    # After `Resize`: predictions are scored at the label's own size.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# Three scales, no flip: averaging, which hierarchical attention is compared
# with, sees exactly what a model with `scales=(0.5, 1.0, 2.0)` sees.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=factor, keep_ratio=True)
                for factor in (0.5, 1.0, 2.0)
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=4,
    # Workers would take time from the two cores that train.
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train'
        ),
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
        type=dataset_type,
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
