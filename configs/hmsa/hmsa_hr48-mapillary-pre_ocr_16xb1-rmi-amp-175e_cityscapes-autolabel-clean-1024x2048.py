# The authors' best recipe with labels of a teacher that was trained on train
# and coarse alone, so that scores on val are of unseen images:
#   hmsa_hr48-mapillary-pre_ocr_16xb1-rmi-amp-75e_cityscapes-coarse-
#   1024x2048.py
# is a teacher, tools/autolabel.py makes the labels; README.md has the
# commands. TeacherLeakageHook finds what the teacher has seen in the folder
# of its labels, and compares it with the images of each score.
#
# Cross-validation, with a teacher of the same split: README.md.
_base_ = (
    './hmsa_hr48-mapillary-pre_ocr_16xb1-rmi-amp-175e_cityscapes-autolabel-'
    '1024x2048.py'
)
autolabel_dataset = dict(
    data_prefix=dict(
        img_path='leftImg8bit/train_extra',
        # Of `hmsa label ... data/cityscapes/leftImg8bit/train_extra
        # data/cityscapes/autolabel --round 1`.
        seg_map_path='autolabel/round_1',
        coarse_map_path='gtCoarse/train_extra',
    ),
)
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            datasets=[
                _base_.fine_dataset,
                dict(_base_.autolabel_dataset, **autolabel_dataset),
            ]
        )
    )
)
custom_hooks = [
    dict(type='InvalidLossHook'),
    dict(type='IterSeedHook'),
    # Of the labels that train_dataloader has.
    dict(type='TeacherLeakageHook'),
]
