# The teacher: fine labels, and the coarse polygons of the other scenes, as the
# paper's teacher has (arXiv 2005.10821, section 3.4). Half of what it sees is
# finely labelled.
_base_ = './autolabel-fine_r18s1_fcn_1xb4-0.3k_street-scenes-128x256.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            # 10 scenes, as often as the 160 others
            dict(type='RepeatDataset', times=16, dataset=_base_.fine_dataset),
            _base_.coarse_dataset,
        ],
    )
)
