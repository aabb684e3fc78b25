# A student: fine labels, and those of a teacher where it was sure enough.
# Otherwise as the teacher.
_base_ = './autolabel-fine_r18s1_fcn_1xb4-0.3k_street-scenes-128x256.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            # 10 scenes, as often as the 160 others
            dict(type='RepeatDataset', times=16, dataset=_base_.fine_dataset),
            _base_.autolabel_dataset,
        ],
    )
)
# Warns if it is scored on scenes that its teacher was trained on.
custom_hooks = [dict(type='TeacherLeakageHook')]
