# The authors' recipe for Cityscapes from its real start: the network with one
# scale, trained on Mapillary (train_cityscapes.yml: snapshot). Their file:
#   hmsa convert \
#       ocrnet.HRNet_industrious-chicken.pth \
#       checkpoints/hmsa_hr48_ocr_mapillary.pth
# or a checkpoint of hmsa_hr48_ocr_8xb2-rmi-amp-200e_mapillary-1024x1024.py.
_base_ = './hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048.py'
load_from = 'checkpoints/hmsa_hr48_ocr_mapillary.pth'
model = dict(
    pretrained=None,
    # The classifiers of its 65 classes start anew.
    decode_head=dict(reinit_classifier=True),
)
