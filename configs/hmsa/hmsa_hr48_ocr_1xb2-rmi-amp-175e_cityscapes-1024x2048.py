# The authors' recipe on one GPU: two images in a batch instead of eight, and
# the learning rate scaled with it. mmengine turns SyncBN into BN, whose
# statistics are then of two images, not of eight. With less memory:
#   --cfg-options train_dataloader.batch_size=1 \
#       optim_wrapper.optimizer.lr=0.000625
_base_ = './hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py'
train_dataloader = dict(
    batch_size=2,
    # 2975 is odd; no step on a single image.
    drop_last=True,
)
optim_wrapper = dict(optimizer=dict(lr=0.00125))  # 0.005 * 2 / 8
