"""Configs of heads and settings of models that several files test with."""

import copy

import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from hmsa_mmseg.models.utils.execution import COSTS

BN = dict(type='BN', requires_grad=True)
SCALES = (0.5, 1.0, 2.0)
WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0]
CE = dict(type='CrossEntropyLoss')
MEAN = dict(CE, avg_non_ignore=True)
WEIGHTED = dict(type='ClassWeightedCrossEntropyLoss', class_weight=WEIGHTS)
RMI = dict(type='RMILoss')
BCE = dict(RMI, with_rmi=False)
# Of the features of the tiny backbone in tests/conftest.py.
FCN = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    dropout_ratio=0,
    num_classes=5,
    norm_cfg=BN,
)
AUX = dict(FCN, in_channels=8, in_index=0)
OCR = dict(FCN, type='OCRHead', ocr_channels=4)
del OCR['num_convs']
BINARY = dict(
    FCN,
    num_classes=2,
    out_channels=1,
    threshold=0.45,
    loss_decode=dict(CE, use_sigmoid=True),
)
UPDATE = dict(
    type='KernelUpdateHead',
    num_classes=5,
    num_ffn_fcs=2,
    num_heads=2,
    num_mask_fcs=1,
    feedforward_channels=8,
    in_channels=8,
    out_channels=8,
    dropout=0.0,
    conv_kernel_size=1,
    ffn_act_cfg=dict(type='ReLU', inplace=True),
    with_ffn=True,
    feat_transform_cfg=dict(conv_cfg=dict(type='Conv2d'), act_cfg=None),
    kernel_updator_cfg=dict(
        type='KernelUpdator',
        in_channels=8,
        feat_channels=8,
        out_channels=8,
        act_cfg=dict(type='ReLU'),
        norm_cfg=dict(type='LN'),
    ),
)
KNET = dict(
    type='IterativeDecodeHead',
    num_stages=2,
    kernel_update_head=[UPDATE] * 2,
    kernel_generate_head=FCN,
)
# What has an attention of each kind, or none.
HEADS = {
    'hierarchical': dict(type='HierarchicalMSAttentionHead'),
    'plain': dict(type='HierarchicalMSAttentionHead', fast=False),
    'attention-to-scale': dict(type='AttentionToScaleHead'),
    'average': dict(type='MultiScaleAverageHead'),
}


def cascade(aux=None, **last):
    """OCRNet's two heads; the loss of the first has the authors' weight."""
    loss = dict(MEAN, loss_weight=0.4)
    return [dict(FCN, loss_decode=aux or loss), dict(OCR, **last)]


def build_head(tiny_model_cfg, head='hierarchical', seg_head=FCN, **kwargs):
    """Build a model with another head for several scales."""
    cfg = tiny_model_cfg(**kwargs)
    cfg['decode_head'] = dict(HEADS[head], seg_head=seg_head)
    if head == 'attention-to-scale':
        scales = cfg['train_cfg']['scales']
        cfg['decode_head']['num_scales'] = len(scales)
    return MODELS.build(ConfigDict(cfg))


@torch.no_grad()
def predict_all_classes(model, inputs):
    """Change the classifier so that no class wins everywhere."""
    classifier = model.decode_head.seg_heads[-1].conv_seg
    torch.nn.init.normal_(classifier.weight)
    feats = model.eval().extract_feat(inputs)
    logits = model.decode_head.forward_seg_heads(feats).seg_logits
    classifier.bias -= logits.mean(dim=(0, 2, 3))
    return model


def with_cfg(model, **test_cfg):
    """Set `test_cfg`, as a command line or a user would."""
    test_cfg = {'mode': 'whole', 'scales': SCALES, **test_cfg}
    model.test_cfg = ConfigDict(test_cfg)
    return model.eval()


def sample(size, **meta):
    shape = dict(ori_shape=size, img_shape=size, pad_shape=size)
    return SegDataSample(metainfo={**shape, **meta})


@torch.no_grad()
def predict(model, inputs, samples=None):
    return model.predict(inputs, copy.deepcopy(samples))


def step(model, batch):
    """Sum up the losses of a batch, and compute their gradients."""
    losses = model.loss(*batch)
    total, _ = model.parse_losses(losses)
    total.backward()
    return losses, total


def learned(module):
    """Names of the parameters that have a gradient."""
    return {n for n, p in module.named_parameters() if p.grad is not None}


def set_costs(monkeypatch, **costs):
    """Change the costs of all kinds of devices."""
    for kind, found in COSTS.items():
        monkeypatch.setitem(COSTS, kind, found._replace(**costs))
