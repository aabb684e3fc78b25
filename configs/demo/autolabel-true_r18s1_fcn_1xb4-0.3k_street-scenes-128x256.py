# The upper bound: all scenes with their true labels, which only generated ones
# have.
_base_ = './autolabel-fine_r18s1_fcn_1xb4-0.3k_street-scenes-128x256.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            # 10 scenes, as often as the 160 others
            dict(type='RepeatDataset', times=16, dataset=_base_.fine_dataset),
            dict(
                _base_.fine_dataset,
                data_prefix=dict(
                    img_path='leftImg8bit/train_extra',
                    seg_map_path='gtTrue/train_extra',
                ),
            ),
        ],
    )
)
