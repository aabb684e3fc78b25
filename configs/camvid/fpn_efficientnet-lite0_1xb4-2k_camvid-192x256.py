# The single scale that is compared with: a plain model of mmseg.
_base_ = [
    '../_base_/models/fpn_efficientnet-lite0.py',
    '../_base_/datasets/camvid.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_camvid.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(
        loss_decode=dict(
            _delete_=True,
            type='ClassWeightedCrossEntropyLoss',
            class_weight=_base_.class_weight,
        )
    ),
)
