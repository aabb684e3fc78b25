# A teacher for the coarsely labelled images of Cityscapes. The authors have
# not published theirs; issue 104 of NVIDIA/semantic-segmentation says of it:
# from a model trained on Mapillary, on train, val and coarse labels, for 75
# epochs, with weight decay, and labels are made when it has been trained.
#
# As there: Mapillary, 75 epochs, weight decay (its amount is the default of
# their train.py), coarse labels. Otherwise on purpose: no val, so that a
# student can be scored on it. Not known, and taken from their recipe for the
# student: learning rate and its course, losses, batch, crops, and that coarse
# images come in for the places of rare classes alone.
_base_ = (
    './hmsa_hr48-mapillary-pre_ocr_16xb1-rmi-amp-175e_cityscapes-autolabel-'
    '1024x2048.py'
)
# Known: "coarse" and "train" (issue 104). Ours: no val; which classes coarse
# places are drawn of (train_dataloader.sampler.boost of the base).
coarse_dataset = dict(
    type='CityscapesCoarseDataset',
    data_root=_base_.data_root,
    data_prefix=dict(
        img_path='leftImg8bit/train_extra', seg_map_path='gtCoarse/train_extra'
    ),
    pipeline=_base_.train_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ClassUniformDataset',
        dataset=dict(
            type='ConcatDataset',
            datasets=[_base_.fine_dataset, coarse_dataset],
        ),
    )
)
optim_wrapper = dict(
    optimizer=dict(
        lr=0.01,  # ours: train_cityscapes_sota.yml, for 16 images
        momentum=0.9,  # ours: default of train.py
        weight_decay=0.0001,  # on: issue 104; how much: default of train.py
    )
)
param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=0.0,
        power=2.0,  # ours: train_cityscapes_sota.yml, poly_exp
        begin=0,
        end=76,  # one more than there are epochs, see schedule_175e.py
        by_epoch=True,
    )
]
train_cfg = dict(max_epochs=75)  # known: issue 104
# It learns from no teacher.
custom_hooks = [dict(type='InvalidLossHook'), dict(type='IterSeedHook')]
