# The student with the paper's threshold in place of that of the authors' code.
_base_ = './autolabel-student-t50_r18s1_fcn_1xb4-0.8k_street-scenes-96x192.py'
autolabel_dataset = _base_.autolabel_dataset
autolabel_dataset.pipeline[2].threshold = 0.9
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(type='RepeatDataset', times=8, dataset=_base_.fine_dataset),
            autolabel_dataset,
        ],
    )
)
