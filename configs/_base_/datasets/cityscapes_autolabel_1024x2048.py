# Fine Cityscapes, and the coarsely labelled images with a teacher's labels, as
# the authors' best recipe reads them (NVIDIA/semantic-segmentation:
# scripts/train_cityscapes_sota.yml, datasets/base_loader.py). The fine part,
# crop, augmentation and validation are cityscapes_1024x2048.py's.
data_root = 'data/cityscapes/'
num_classes = 19
crop_size = (1024, 2048)  # train_cityscapes_sota.yml: crop_size
# train_cityscapes_sota.yml: custom_coarse_prob. The paper's text and its 85.1
# on the test set are of 0.9, the 85.4 after it of 0.5 (issue 62 there).
threshold = 0.5
# train_cityscapes_sota.yml: custom_coarse_dropout_classes (truck, bus, train).
united_classes = (14, 15, 16)
# train_cityscapes_sota.yml: coarse_boost_classes.
boosted_classes = (3, 4, 6, 7, 9, 11, 12, 13, 14, 15, 16, 17, 18)
augmentation = [
    dict(
        type='RandomResize',
        scale=(2048, 1024),
        ratio_range=(0.5, 2.0),  # train.py: --scale_min, --scale_max
        keep_ratio=True,
        # joint_transforms.py: RandomSizeAndCrop.
        interpolation='bicubic',
        backend='pillow',
    ),
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
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=num_classes),
    *augmentation,
]
# The order is base_loader.py's: region, coarse labels (also outside of the
# region), threshold (also for what came from the coarse labels).
autolabel_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=num_classes),
    # base_loader.py: drop_mask, without the own car and the image's border.
    dict(
        type='MaskOutRegion',
        box=(15, 840, 14, 2030),
        ref_size=(1024, 2048),
    ),
    dict(type='UniteCoarseLabels', classes=united_classes, required=True),
    dict(type='ApplyConfidence', threshold=threshold, required=True),
    *augmentation,
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

fine_dataset = dict(
    type='HMSACityscapesDataset',
    data_root=data_root,
    data_prefix=dict(
        img_path='leftImg8bit/train', seg_map_path='gtFine/train'
    ),
    pipeline=train_pipeline,
)
# As the authors' archive of labels unpacks. For the output of
# tools/autolabel.py, `seg_map_path` names its folder.
autolabel_dataset = dict(
    type='CityscapesAutoLabelDataset',
    data_root=data_root,
    data_prefix=dict(
        img_path='leftImg8bit/train_extra',
        seg_map_path='refinement_final/train_extra',
        coarse_map_path='gtCoarse/train_extra',
    ),
    pipeline=autolabel_pipeline,
)
train_dataloader = dict(
    batch_size=1,  # train_cityscapes_sota.yml: bs_trn
    num_workers=4,  # train.py: --num_workers
    persistent_workers=True,
    sampler=dict(
        type='ClassUniformSampler',
        pct=0.5,  # train.py: --class_uniform_pct
        tile_size=1024,  # uniform.py: default of tile_size
        # cityscapes.py: the auto-labelled images only add places of these
        # classes; an epoch stays as long as the fine part. They stay to the
        # end, as in the authors' run. Meant was `until_epoch=150`
        # (train_cityscapes_sota.yml: max_cu_epoch), but `disable_coarse` in
        # cityscapes.py changes nothing.
        boost=dict(datasets=(1,), classes=boosted_classes, until_epoch=None),
    ),
    dataset=dict(
        type='ClassUniformDataset',
        # uniform.py: places are found with the coarse labels united, but
        # without region and threshold, and so in part where the label does
        # not count. docs/coarse_data.md has the loader that avoids it.
        label_loader=[
            dict(type='LoadSegLabels', num_classes=num_classes),
            dict(type='UniteCoarseLabels', classes=united_classes),
        ],
        dataset=dict(
            type='ConcatDataset', datasets=[fine_dataset, autolabel_dataset]
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='HMSACityscapesDataset',
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
