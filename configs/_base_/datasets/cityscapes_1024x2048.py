# The authors' crop and augmentation, as near as mmseg's transforms come:
# they pad a small image on all four sides with black, here bottom and right
# with the mean colour; they apply every colour change to every image in
# random order and scale the brightness, here each with probability 0.5 and
# the brightness is shifted; they downscale with Pillow's antialiased filter.
_base_ = './cityscapes.py'
crop_size = (1024, 2048)  # scripts/train_cityscapes.yml: crop_size
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(2048, 1024),
        ratio_range=(0.5, 2.0),  # train.py: --scale_min, --scale_max
        keep_ratio=True,
        interpolation='bicubic',  # joint_transforms.py: RandomSizeAndCrop
    ),
    # No `cat_max_ratio`: the authors take any crop.
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='PhotoMetricDistortion',
        # train.py: --color_aug 0.25 of each; of the hue circle's 180 steps
        # that is 45.
        contrast_range=(0.75, 1.25),
        saturation_range=(0.75, 1.25),
        hue_delta=45,
    ),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
