# The authors' network and training settings (NVIDIA/semantic-segmentation:
# scripts/train_cityscapes.yml and the defaults of train.py and config.py).
#
# With their weights, which tools/model_converters/nvidia2mmseg.py converts,
# stock test.py evaluates it as it stands. For a checkpoint of 65 classes
# (Mapillary): --cfg-options model.decode_head.num_classes=65
#
# Differences in training:
# - Loss: cross-entropy, averaged over the pixels that have a label. Theirs is
#   region mutual information + binary cross-entropy on the main logits and
#   binary cross-entropy on the others (train_cityscapes.yml: rmi_loss).
# - Sampling: every image once a round. Theirs draws half of an epoch so that
#   each class appears equally often (train.py: --class_uniform_pct 0.5).
# - Start: ImageNet weights. Theirs is a Mapillary checkpoint of the network
#   with one scale; converted, it can be given as `load_from`, with
#   `model.decode_head.reinit_classifier=True` for its 65 classes.
# - Precision: float32, where theirs is apex O1; `train.py --amp` halves it.
# - Crops and colours: see _base_/datasets/cityscapes_1024x2048.py.
_base_ = [
    '../_base_/models/hmsa_ocr_hr48.py',
    '../_base_/datasets/cityscapes_1024x2048.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_65k.py',
]
crop_size = (1024, 2048)
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        seg_head=[
            dict(
                type='FCNHead',
                in_channels=[48, 96, 192, 384],
                channels=720,  # ocrnet.py: aux_head keeps the width
                input_transform='resize_concat',
                in_index=(0, 1, 2, 3),
                kernel_size=1,
                num_convs=1,
                concat_input=False,
                dropout_ratio=-1,
                num_classes=19,
                norm_cfg=norm_cfg,
                align_corners=False,  # config.py: MODEL.ALIGN_CORNERS
                loss_decode=dict(
                    type='CrossEntropyLoss',
                    # loss/utils.py: the mean is over labelled pixels
                    avg_non_ignore=True,
                    loss_weight=0.4,  # config.py: LOSS.OCR_ALPHA
                ),
            ),
            dict(
                type='OCRHead',
                in_channels=[48, 96, 192, 384],
                channels=512,  # config.py: MODEL.OCR.MID_CHANNELS
                ocr_channels=256,  # config.py: MODEL.OCR.KEY_CHANNELS
                input_transform='resize_concat',
                in_index=(0, 1, 2, 3),
                # ocrnet.py: Dropout2d(0.05) ends the OCR block, before
                # classifier and attention alike.
                dropout_ratio=0.05,
                num_classes=19,
                norm_cfg=norm_cfg,
                align_corners=False,
                loss_decode=dict(
                    type='CrossEntropyLoss',
                    avg_non_ignore=True,
                    loss_weight=1.0,
                ),
            ),
        ],
        loss_scale=dict(
            type='CrossEntropyLoss',
            avg_non_ignore=True,
            # train_cityscapes.yml: supervised_mscale_loss_wt
            loss_weight=0.05,
        ),
    ),
    # config.py: MODEL.MSCALE_LO_SCALE and 1.0
    train_cfg=dict(scales=(0.5, 1.0)),
    # train_cityscapes.yml and eval_cityscapes.yml: n_scales
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
