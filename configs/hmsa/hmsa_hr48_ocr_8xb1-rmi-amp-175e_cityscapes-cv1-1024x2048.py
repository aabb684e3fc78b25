# The authors' recipe on the cities of their cross-validation split 1
# (train.py: --cv). Others are one option for each data set:
#   --cfg-options train_dataloader.dataset.dataset.cv=2 \
#       val_dataloader.dataset.cv=2 test_dataloader.dataset.cv=2
# In split 3 both parts are all 21 cities, so its scores say nothing.
_base_ = './hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py'
# The parents of train and val: a split takes cities from both.
data_prefix = dict(img_path='leftImg8bit', seg_map_path='gtFine')
train_dataloader = dict(
    dataset=dict(dataset=dict(data_prefix=data_prefix, cv=1, split='train'))
)
val_dataloader = dict(dataset=dict(data_prefix=data_prefix, cv=1, split='val'))
test_dataloader = val_dataloader
