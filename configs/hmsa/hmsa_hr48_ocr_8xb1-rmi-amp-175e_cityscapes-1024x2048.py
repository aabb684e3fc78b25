# The authors' recipe for Cityscapes, fine labels (NVIDIA/semantic-
# segmentation: scripts/train_cityscapes.yml, defaults of train.py and
# config.py). With their weights, which tools/model_converters/nvidia2mmseg.py
# converts, stock test.py evaluates this config as it stands.
#
# It starts from ImageNet; theirs starts from Mapillary, as
# hmsa_hr48-mapillary-pre_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py does.
# Crops and colours: see _base_/datasets/cityscapes_1024x2048.py; epochs,
# learning rate, precision: see _base_/schedules/schedule_175e.py.
_base_ = [
    '../_base_/models/hmsa_ocr_hr48.py',
    '../_base_/datasets/cityscapes_1024x2048.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_175e.py',
]
crop_size = (1024, 2048)
num_classes = 19
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        seg_head=[
            dict(
                _base_.model.decode_head.seg_head[0],
                # config.py: LOSS.OCR_AUX_RMI False, so cross-entropy alone,
                # binary; LOSS.OCR_ALPHA 0.4.
                loss_decode=dict(
                    type='RMILoss',
                    with_rmi=False,
                    loss_weight=0.4,
                ),
            ),
            dict(
                _base_.model.decode_head.seg_head[1],
                # ocrnet.py: Dropout2d(0.05) ends the OCR block, before
                # classifier and attention alike.
                dropout_ratio=0.05,
                # train_cityscapes.yml: rmi_loss
                loss_decode=dict(type='RMILoss'),
            ),
        ],
        # train_cityscapes.yml: supervised_mscale_loss_wt
        loss_scale=dict(
            type='RMILoss',
            with_rmi=False,
            loss_weight=0.05,
        ),
    ),
    # config.py: MODEL.MSCALE_LO_SCALE and 1.0
    train_cfg=dict(scales=(0.5, 1.0), stats_scale=None),
    # train_cityscapes.yml and eval_cityscapes.yml: n_scales
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
log_processor = dict(by_epoch=True)
