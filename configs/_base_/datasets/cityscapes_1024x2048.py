# Cityscapes with the authors' crop, augmentation and sampling
# (NVIDIA/semantic-segmentation: scripts/train_cityscapes.yml, defaults of
# train.py). Differences that remain: sizes after `RandomResize` are rounded,
# theirs cut off, and a padded image moves its centroid with it.
dataset_type = 'HMSACityscapesDataset'
data_root = 'data/cityscapes/'
num_classes = 19
crop_size = (1024, 2048)  # train_cityscapes.yml: crop_size
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=num_classes),
    dict(
        type='RandomResize',
        scale=(2048, 1024),
        ratio_range=(0.5, 2.0),  # train.py: --scale_min, --scale_max
        keep_ratio=True,
        # joint_transforms.py: RandomSizeAndCrop. Pillow's filter widens when
        # an image shrinks, OpenCV's does not; their nearest neighbours differ.
        interpolation='bicubic',
        backend='pillow',
    ),
    # Small images are centred on black, with the label ignored there.
    dict(type='CentroidRandomCrop', crop_size=crop_size, pad='center'),
    dict(type='RandomFlip', prob=0.5),
    # train.py: --color_aug
    dict(
        type='HMSAColorJitter',
        brightness=0.25,
        contrast=0.25,
        saturation=0.25,
        hue=0.25,
    ),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=num_classes),
    dict(type='PackSegInputs'),
]
# Flips only: the model blends the scales of its own `test_cfg`.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadSegLabels', num_classes=num_classes)],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=1,  # train_cityscapes.yml: bs_trn
    num_workers=4,  # train.py: --num_workers
    persistent_workers=True,
    sampler=dict(
        type='ClassUniformSampler',
        pct=0.5,  # train.py: --class_uniform_pct
        tile_size=1024,  # uniform.py: default of tile_size
    ),
    dataset=dict(
        type='ClassUniformDataset',
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            data_prefix=dict(
                img_path='leftImg8bit/train', seg_map_path='gtFine/train'
            ),
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='leftImg8bit/val', seg_map_path='gtFine/val'
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='CompactIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
