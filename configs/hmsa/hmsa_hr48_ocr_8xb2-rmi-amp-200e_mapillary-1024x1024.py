# The authors' recipe for Mapillary Vistas, 65 classes (NVIDIA/semantic-
# segmentation: scripts/train_mapillary.yml, defaults of train.py and
# config.py). Size, crop, blur: see _base_/datasets/mapillary_1024x1024.py;
# epochs, learning rate, precision: see _base_/schedules/schedule_200e.py.
#
# Scores are at a long edge of 2177 pixels, as theirs, or at the size of the
# files, see the data set. Their published 61.05 (eval_mapillary.yml) is with
#   --tta --cfg-options model.test_cfg.scales="(0.25,0.5,1.0,2.0)"
_base_ = [
    '../_base_/models/hmsa_ocr_hr48.py',
    '../_base_/datasets/mapillary_1024x1024.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_200e.py',
]
crop_size = (1024, 1024)
num_classes = 65
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        num_classes=num_classes,
        seg_head=[
            dict(
                _base_.model.decode_head.seg_head[0],
                # config.py: LOSS.OCR_AUX_RMI False, LOSS.OCR_ALPHA 0.4
                loss_decode=dict(
                    type='RMILoss',
                    with_rmi=False,
                    loss_weight=0.4,
                ),
            ),
            dict(
                _base_.model.decode_head.seg_head[1],
                dropout_ratio=0.05,  # ocrnet.py: the end of the OCR block
                # train_mapillary.yml: rmi_loss
                loss_decode=dict(type='RMILoss'),
            ),
        ],
        # No `loss_scale`: config.py's LOSS.SUPERVISED_MSCALE_WT is 0.
    ),
    # config.py: MODEL.MSCALE_LO_SCALE and 1.0
    train_cfg=dict(scales=(0.5, 1.0), stats_scale=None),
    # train_mapillary.yml: n_scales. 65 classes at the size of a file of 24
    # megapixels would be 6 GB of logits.
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0), classes_only=True),
)
# trnval_utils.py, eval_minibatch: the mean of logits. It needs no results with
# logits of single views, which `classes_only` leaves out.
tta_model = dict(type='AccumulatingTTAModel')
train_dataloader = dict(
    sampler=dict(
        _delete_=True,
        type='ClassUniformSampler',
        pct=0.5,  # train.py: --class_uniform_pct
        tile_size=1024,  # uniform.py: default of tile_size
    ),
    dataset=dict(
        _delete_=True,
        type='ClassUniformDataset',
        dataset=_base_.train_dataloader.dataset,
    ),
)
log_processor = dict(by_epoch=True)
