# HRNet-W18 + OCR, wrapped (mmseg configs/_base_/models/ocrnet_hr18.py).
_base_ = './hmsa_ocr_hr48.py'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    pretrained='open-mmlab://msra/hrnetv2_w18',
    backbone=dict(
        extra=dict(
            stage2=dict(num_channels=(18, 36)),
            stage3=dict(num_channels=(18, 36, 72)),
            stage4=dict(num_channels=(18, 36, 72, 144)),
        )
    ),
    decode_head=dict(
        # Lists are replaced, not merged, so both heads stand here again.
        seg_head=[
            dict(
                type='FCNHead',
                in_channels=[18, 36, 72, 144],
                channels=270,  # sum of the in_channels
                input_transform='resize_concat',
                in_index=(0, 1, 2, 3),
                kernel_size=1,
                num_convs=1,
                concat_input=False,
                dropout_ratio=-1,
                num_classes=19,
                norm_cfg=norm_cfg,
                align_corners=False,
                loss_decode=dict(
                    type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4
                ),
            ),
            dict(
                type='OCRHead',
                in_channels=[18, 36, 72, 144],
                channels=512,
                ocr_channels=256,
                input_transform='resize_concat',
                in_index=(0, 1, 2, 3),
                dropout_ratio=-1,
                num_classes=19,
                norm_cfg=norm_cfg,
                align_corners=False,
                loss_decode=dict(
                    type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0
                ),
            ),
        ]
    ),
)
