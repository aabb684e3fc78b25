"""OCRNet's heads, and FCNHead on a pyramid, against mmseg's own forward."""

import copy
import gc
import weakref

import pytest
import torch
from mmseg.registry import MODELS
from test_models.cases import BN, set_costs
from torch import nn

from hmsa_mmseg.models.tiled.ocr import tiled_heads

CHANNELS = (4, 6, 7, 9)
SIZES = ((17, 25), (9, 13), (5, 7), (3, 4))
PYRAMID = dict(
    in_channels=list(CHANNELS),
    in_index=(0, 1, 2, 3),
    input_transform='resize_concat',
    dropout_ratio=-1,
    num_classes=19,
    norm_cfg=BN,
)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Tiles of three rows, the last one shorter."""
    set_costs(monkeypatch, ocr_rows=3)


def fcn_cfg(**kwargs):
    cfg = dict(PYRAMID, type='FCNHead', channels=12, kernel_size=1)
    return {**cfg, 'num_convs': 1, 'concat_input': False, **kwargs}


def ocr_cfgs(**kwargs):
    cfg = dict(PYRAMID, type='OCRHead', channels=16, ocr_channels=8)
    return [fcn_cfg(**kwargs), {**cfg, **kwargs}]


def build(seg_head, dtype=torch.float64):
    """Build a head with lively norms and classifiers."""
    head = MODELS.build(
        dict(
            type='HierarchicalMSAttentionHead',
            seg_head=seg_head,
            attn_channels=4,
        )
    )
    for name, tensor in head.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.normal_(0.5, 0.3)
        elif name.endswith('conv_seg.weight'):
            tensor.normal_(0, 0.5)
    return head.to(dtype)


def make_feats(dtype=torch.float64, batch=2):
    return [
        torch.randn(batch, c, *size, dtype=dtype, requires_grad=True)
        for c, size in zip(CHANNELS, SIZES)
    ]


def both_ways(head):
    """The head, and a copy that runs layer by layer."""
    plain = copy.deepcopy(head)
    plain.fast = False
    assert tiled_heads(head.seg_heads) is not None
    return head, plain


HEADS = {
    'OCRNet': ocr_cfgs(),
    '65 classes': ocr_cfgs(num_classes=65),
    'aligned corners': ocr_cfgs(align_corners=True),
    'other order': ocr_cfgs(
        in_index=(2, 0, 3, 1),
        in_channels=[CHANNELS[i] for i in (2, 0, 3, 1)],
    ),
    'no norm': ocr_cfgs(norm_cfg=None),
    'GN': ocr_cfgs(norm_cfg=dict(type='GN', num_groups=2)),
    'BN without affine': ocr_cfgs(norm_cfg=dict(type='BN', affine=False)),
    'batch statistics': ocr_cfgs(
        norm_cfg=dict(type='BN', track_running_stats=False)
    ),
    'leaky': ocr_cfgs(act_cfg=dict(type='LeakyReLU')),
    # Written in the place of what it reads, and its gradient reads that.
    'ELU without norm': ocr_cfgs(norm_cfg=None, act_cfg=dict(type='ELU')),
    'binary': ocr_cfgs(num_classes=2, out_channels=1, threshold=0.4),
    'FCN': fcn_cfg(),
}


def assert_equal(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('seg_head', HEADS.values(), ids=HEADS)
def test_outputs_gradients_and_statistics(seg_head):
    feats = make_feats()
    before = [x.detach().clone() for x in feats]
    ways = both_ways(build(seg_head))
    for training in (True, False):
        found, expected = [], []
        for head, results in zip(ways, (found, expected)):
            outputs = head.train(training).forward_seg_heads(feats)
            assert outputs.seg_logits is outputs.outputs[-1]
            results += [*outputs.outputs, outputs.classifier_feats]
            # Of all that is handed on, in a way that tells pixels apart.
            generator = torch.Generator().manual_seed(0)
            total = sum(
                (x * torch.rand(x.shape, generator=generator)).sum()
                for x in results
            )
            params = list(head.seg_head.parameters())
            results += torch.autograd.grad(total, (*feats, *params))
            results += head.seg_head.buffers()
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_equal(one, other, 1e-9)
    with torch.no_grad():
        _, plain = ways
        expected = plain.forward_seg_heads(feats)
        for with_feats in (True, False):
            found = ways[0].forward_seg_heads(feats, with_feats)
            for one, other in zip(found.outputs, expected.outputs):
                assert_equal(one, other)
            if with_feats or found.classifier_feats is not None:
                assert_equal(found.classifier_feats, expected.classifier_feats)
    for one, other in zip(feats, before):
        assert torch.equal(one, other)


def test_a_graph_without_a_backward_pass_is_freed():
    feats = [2 * x for x in make_feats()]
    head = build(ocr_cfgs()).train()
    head.forward_seg_heads(feats)
    found = [weakref.ref(x) for x in feats]
    del feats
    gc.collect()
    assert all(x() is None for x in found)


def test_features_that_are_changed_before_the_backward_pass():
    feats = [2 * x for x in make_feats()]
    logits = build(ocr_cfgs()).train().forward_seg_heads(feats).seg_logits
    feats[0].mul_(2)
    with pytest.raises(RuntimeError, match='in place'):
        logits.sum().backward()


class PoolingActivation(torch.nn.Module):
    """Looks at the whole map."""

    def forward(self, x):
        return x * x.mean(dim=(2, 3), keepdim=True).sigmoid()


@torch.no_grad()
def test_layers_that_look_at_the_whole_map():
    feats = make_feats()
    head = build(ocr_cfgs()).eval()
    block = head.seg_heads[-1].object_context_block
    block.out_project.activate = PoolingActivation()
    head, plain = both_ways(head)
    found = head.forward_seg_heads(feats).seg_logits
    expected = plain.forward_seg_heads(feats).seg_logits
    assert_equal(found, expected)


@pytest.mark.parametrize('training', [True, False])
def test_autocast(training):
    feats = [x.detach() for x in make_feats(torch.float32)]
    ways = both_ways(build(ocr_cfgs(), torch.float32).train(training))
    grad = torch.set_grad_enabled(training)
    with grad, torch.autocast('cpu', torch.bfloat16):
        found, expected = (one.forward_seg_heads(feats) for one in ways)
    assert found.seg_logits.dtype == expected.seg_logits.dtype
    for one, other in zip(found.outputs, expected.outputs):
        assert (one - other).abs().max() < 0.05 * other.abs().max()


@pytest.mark.parametrize('fast', [True, False])
def test_dropout_drops_channels_of_whole_images(fast):
    # Without activations nothing else is zero.
    head = build(ocr_cfgs(dropout_ratio=0.5, act_cfg=None)).train()
    head.fast = fast
    # Also with dropout alone in training mode, as for Monte Carlo dropout.
    for only_dropout in (False, True):
        if only_dropout:
            head.eval()
            head.seg_heads[-1].dropout.train()
        with torch.set_grad_enabled(not only_dropout):
            outputs = head.forward_seg_heads(make_feats())
        dropped = (outputs.classifier_feats == 0).flatten(2)
        assert torch.equal(dropped.all(dim=2), dropped.any(dim=2))
        assert 0 < dropped.double().mean() < 1
        classified = head.seg_heads[-1].conv_seg(outputs.classifier_feats)
        assert_equal(outputs.seg_logits, classified)


def other_forward(head):
    forward = head.bottleneck.forward
    head.bottleneck.forward = lambda x: forward(x) / 2


def doubling_hook(head):
    conv = head.object_context_block.bottleneck.conv
    conv.register_forward_hook(lambda *args: 2 * args[-1])


def other_conv(head):
    conv = head.bottleneck.conv
    head.bottleneck.conv = nn.utils.parametrizations.spectral_norm(conv)


def grouped(head):
    conv = nn.Conv2d(16, 8, 1, groups=2, bias=False).double()
    head.object_context_block.query_project[0].conv = conv


def dilated(head):
    head.bottleneck.conv.dilation = head.bottleneck.conv.padding = (2, 2)


def other_order(head):
    head.bottleneck.order = ('conv', 'act', 'norm')


CHANGES = (
    other_forward,
    doubling_hook,
    other_conv,
    grouped,
    dilated,
    other_order,
)


@pytest.mark.parametrize('change', CHANGES)
def test_what_others_have_changed_holds(change):
    head = build(ocr_cfgs()).eval()
    feats = make_feats()
    with torch.no_grad():
        usual = head.forward_seg_heads(feats).seg_logits
        change(head.seg_heads[-1])
        found = head.forward_seg_heads(feats)
        head.fast = False
        expected = head.forward_seg_heads(feats)
    assert_equal(found.seg_logits, expected.seg_logits)
    assert_equal(found.classifier_feats, expected.classifier_feats)
    assert (found.seg_logits - usual).abs().max() > 1e-3


def test_other_heads_are_called():
    for cfg in (
        fcn_cfg(kernel_size=3),
        fcn_cfg(num_convs=2),
        fcn_cfg(concat_input=True),
        fcn_cfg(num_convs=0, channels=sum(CHANNELS)),
        fcn_cfg(input_transform=None, in_index=0, in_channels=4),
    ):
        head = build(cfg)
        assert tiled_heads(head.seg_heads) is None
        assert head.forward_seg_heads(make_feats()).seg_logits.shape[1] == 19
    head = build(ocr_cfgs())
    last = head.seg_heads[-1]
    last.__class__ = type('Other', (type(last),), {})
    assert tiled_heads(head.seg_heads) is None
