# The authors' best recipe for Cityscapes: fine labels, and the coarsely
# labelled images with a teacher's labels for rare classes (NVIDIA/semantic-
# segmentation: scripts/train_cityscapes_sota.yml, defaults of train.py and
# config.py). Their README gives it 86.8 on the validation set.
#
# That is no score on unseen images: the teacher of the labels they published
# (refinement_final) was trained on train, val and coarse (issue 104 there).
# TeacherLeakageHook says so with each score. The same recipe with labels of a
# teacher that has not seen val:
#   hmsa_hr48-mapillary-pre_ocr_16xb1-rmi-amp-175e_cityscapes-autolabel-
#   clean-1024x2048.py
#
# Labels, sampling, crops: see _base_/datasets/
# cityscapes_autolabel_1024x2048.py; epochs, precision: see _base_/schedules/
# schedule_175e.py.
_base_ = [
    '../_base_/models/hmsa_ocr_hr48.py',
    '../_base_/datasets/cityscapes_autolabel_1024x2048.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/schedule_175e.py',
]
crop_size = (1024, 2048)
num_classes = 19
# train_cityscapes_sota.yml: snapshot, as in
# hmsa_hr48-mapillary-pre_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py.
load_from = 'checkpoints/hmsa_hr48_ocr_mapillary.pth'
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    decode_head=dict(
        # The classifiers of its 65 classes start anew.
        reinit_classifier=True,
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
                # train_cityscapes_sota.yml: rmi_loss
                loss_decode=dict(type='RMILoss'),
            ),
        ],
        # train_cityscapes_sota.yml: supervised_mscale_loss_wt
        loss_scale=dict(
            type='RMILoss',
            with_rmi=False,
            loss_weight=0.05,
        ),
    ),
    # config.py: MODEL.MSCALE_LO_SCALE and 1.0
    train_cfg=dict(scales=(0.5, 1.0), stats_scale=None),
    # train_cityscapes_sota.yml: n_scales
    test_cfg=dict(mode='whole', scales=(0.5, 1.0, 2.0)),
)
# train_cityscapes_sota.yml: lr, for 16 images (CMD: nproc_per_node=16).
# max_epoch, poly_exp, momentum and decay are schedule_175e.py's.
optim_wrapper = dict(optimizer=dict(lr=0.01))
# Their archive has no metadata: what its teacher saw is told here.
custom_hooks = [
    dict(type='InvalidLossHook'),
    dict(type='IterSeedHook'),
    dict(
        type='TeacherLeakageHook',
        saw=[
            dict(
                type='HMSACityscapesDataset',
                data_root=_base_.data_root,
                data_prefix=dict(
                    img_path=f'leftImg8bit/{split}',
                    seg_map_path=f'gtFine/{split}',
                ),
            )
            for split in ('train', 'val')
        ],
    ),
]
log_processor = dict(by_epoch=True)
