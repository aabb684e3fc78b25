# Mapillary Vistas 1.2, 65 classes, at the authors' size and with their crop
# and augmentation (NVIDIA/semantic-segmentation: scripts/train_mapillary.yml,
# defaults of train.py). Labels of 1.1: `version='1.1'` in each `dataset`; the
# archive of 2.0 holds those of 1.2 as well.
#
# Scores are at a long edge of 2177, label and all, as the authors'. At the
# size of the files, with and without --tta:
#   --cfg-options test_dataloader.dataset.scored_at=file
#
# Differences that remain: sizes after a resize are rounded, theirs cut off,
# and a padded image moves its centroid with it.
dataset_type = 'HMSAMapillaryDataset'
data_root = 'data/mapillary/'
num_classes = 65
crop_size = (1024, 1024)  # train_mapillary.yml: crop_size
# A square scale with `keep_ratio` sets the long edge.
long_edge = (2177, 2177)  # train_mapillary.yml: pre_size
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=num_classes),
    dict(
        type='RandomResize',
        scale=long_edge,
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
    dict(type='RandomGaussianBlur'),  # train_mapillary.yml: gblur
    dict(type='PackSegInputs'),
]
# joint_transforms.py: Scale, bilinear
resize = dict(
    type='Resize',
    scale=long_edge,
    keep_ratio=True,
    interpolation='bilinear',
    backend='pillow',
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=num_classes),
    dict(type='EvalAtInputSize', resize=resize),
    dict(type='PackSegInputs'),
]
# Flips only: the model blends the scales of its own `test_cfg`.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=num_classes),
    dict(type='EvalAtInputSize', resize=resize),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=2,  # train_mapillary.yml: bs_trn
    num_workers=4,  # train.py: --num_workers
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='training',
        pipeline=train_pipeline,
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
        split='validation',
        scored_at='input',  # or 'file'
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='CompactIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
