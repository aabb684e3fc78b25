import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmengine.runner.checkpoint import load_state_dict
from mmseg.models.decode_heads import PIDHead
from mmseg.registry import MODELS
from test_models.cases import BN, CE, FCN, MEAN, cascade

from hmsa_mmseg import compat

SIZE = (32, 48)
GN = dict(type='GN', num_groups=2)


def build(seg_head=FCN, **kwargs):
    return MODELS.build(
        {
            'type': 'HierarchicalMSAttentionHead',
            'seg_head': seg_head,
            'attn_channels': 8,
            **kwargs,
        }
    )


def feats_of(scales=(0.5, 1.0), size=SIZE, batch=2):
    """Features of each scale; the heads read the second map."""
    found = []
    for scale in scales:
        h, w = (math.ceil(int(s * scale) / 4) for s in size)
        found.append((scale, (None, torch.randn(batch, 16, h, w))))
    return found


def test_settings_are_those_of_the_seg_heads():
    head = build(cascade(), num_classes=65)
    assert [h.conv_seg.out_channels for h in head.seg_head] == [65, 65]
    assert (head.num_classes, head.out_channels) == (65, 65)
    head = build(dict(FCN, align_corners=True, ignore_index=7, threshold=0.2))
    assert head.align_corners is True
    assert (head.ignore_index, head.threshold) == (7, 0.2)


def test_losses_equal_the_written_out_formula(make_batch):
    _, samples = make_batch(size=SIZE)
    label = torch.stack([s.gt_sem_seg.data for s in samples]).squeeze(1)
    twice = dict(MEAN, loss_weight=0.05)
    loss_scale = [twice, twice, dict(type='DiceLoss', loss_weight=0.05)]
    head = build(cascade(loss_decode=MEAN), loss_scale=loss_scale).eval()
    lo, hi = inputs = feats_of()
    losses = head.loss(inputs, SIZE, samples)

    def up(x, to):
        return F.interpolate(x, to, mode='bilinear', align_corners=False)

    def ce(logits):
        return F.cross_entropy(logits, label, ignore_index=255)

    ((x_lo, p_lo), _, feats), ((x_hi, p_hi), _, _) = (
        head.forward_seg_heads(feats) for _, feats in (lo, hi)
    )
    half = (16, 24)
    attn = up(head.scale_attn(feats), half)
    p_lo, x_lo = up(p_lo, half), up(x_lo, half)
    p_hi, x_hi = up(p_hi, SIZE), up(x_hi, SIZE)
    joint = up(attn * p_lo, SIZE) + (1 - up(attn, SIZE)) * p_hi
    joint_aux = up(attn * x_lo, SIZE) + (1 - up(attn, SIZE)) * x_hi
    expected = {
        'decode.loss_ce': ce(joint),
        'aux.loss_ce': 0.4 * ce(joint_aux),
        # Losses of one name add up.
        'scale_0.5.loss_ce': 2 * 0.05 * ce(up(p_lo, SIZE)),
        'scale_1.loss_ce': 2 * 0.05 * ce(p_hi),
    }
    others = {'decode.acc_seg', 'aux.acc_seg'}
    others |= {'scale_0.5.loss_dice', 'scale_1.loss_dice'}
    assert losses.keys() == {*expected, *others}
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)
    losses['decode.loss_ce'].backward()
    for name, param in head.named_parameters():
        assert param.grad is not None, name
        assert param.grad.abs().sum() > 0, name


def test_top_attention_updates_statistics_without_gradient(make_batch):
    _, samples = make_batch(size=SIZE)
    for skip, updates in ((False, 2), (True, 1)):
        head = build(skip_top_scale_attn=skip)
        calls = []
        head.scale_attn.register_forward_hook(
            lambda _, args, out, calls=calls: calls.append(out.requires_grad)
        )
        head.loss(feats_of(), SIZE, samples)
        assert calls == [True, False][:updates]
        assert head.scale_attn.bn0.num_batches_tracked == updates
        assert head.seg_head.convs[0].bn.num_batches_tracked == 2


def test_predict_never_computes_the_top_attention():
    head = build().eval()
    calls = []
    head.scale_attn.register_forward_hook(lambda *_: calls.append(1))
    for count in (1, 2, 3):
        calls.clear()
        scales = (0.5, 1.0, 2.0)[:count]
        head.predict(reversed(feats_of(scales)), SIZE)
        assert len(calls) == count - 1


def test_several_outputs_are_blended_each(make_batch):
    """DAHead gives three maps, EncHead a map and a vector per image."""
    _, samples = make_batch(size=SIZE)
    common = dict(channels=8, num_classes=5, norm_cfg=BN, in_index=1)
    danet = dict(common, type='DAHead', in_channels=16, pam_channels=4)
    losses = build(danet).loss(feats_of(), SIZE, samples)
    assert losses.keys() == {
        f'decode.{part}.{key}'
        for part in ('pam_cam', 'pam', 'cam')
        for key in ('loss_ce', 'acc_seg')
    }
    encnet = dict(common, type='EncHead', in_channels=[16], in_index=[1])
    head, inputs, seen = (
        build(dict(encnet, num_codes=4)).eval(),
        feats_of(),
        [],
    )
    compute = head.seg_head.loss_by_feat
    head.seg_head.loss_by_feat = lambda output, samples: (
        seen.append(output[1]) or compute(output, samples)
    )
    losses = head.loss(inputs, SIZE, samples)
    assert {'decode.loss_ce', 'decode.loss_se'} <= losses.keys()
    vectors = [head.forward_seg_heads(f).outputs[0][1] for _, f in inputs]
    torch.testing.assert_close(seen[0], sum(vectors) / 2)


class OwnPIDHead(PIDHead):
    """A forward of a user's, whose classifier is watched by a hook."""

    def forward(self, inputs):
        return super().forward(inputs)


@pytest.mark.parametrize('kind', [PIDHead, OwnPIDHead])
def test_the_classifier_s_output_is_the_main_one(kind):
    """PIDHead trains with three outputs, its classifier's is the second."""
    pid = dict(type=kind, in_channels=16, channels=8, num_classes=5)
    head = build(dict(pid, norm_cfg=BN, loss_decode=[CE] * 4)).train()
    feats = [torch.randn(2, channels, 8, 8) for channels in (8, 16, 8)]
    outputs = head.forward_seg_heads(feats)
    assert outputs.seg_logits is outputs.outputs[0][1]


def test_norm_layers_of_the_branch():
    for head, expected in (
        (build(dict(FCN, norm_cfg=GN)), torch.nn.GroupNorm),
        (build(dict(FCN, norm_cfg=None)), torch.nn.BatchNorm2d),
        (build(norm_cfg=GN), torch.nn.GroupNorm),
    ):
        assert isinstance(head.scale_attn.bn0, expected)
    sync = build(dict(FCN, norm_cfg=dict(type='SyncBN')))
    assert isinstance(sync.scale_attn.bn0, torch.nn.SyncBatchNorm)
    reverted = revert_sync_batchnorm(sync)
    assert not isinstance(reverted.scale_attn.bn0, torch.nn.SyncBatchNorm)


def test_width_of_the_branch():
    wide = build(dict(FCN, channels=10), attn_channels=None)
    # Half of what the classifier reads.
    assert wide.scale_attn.conv0.weight.shape[:2] == (5, 10)
    assert wide.scale_attn.conv1.weight.shape[:2] == (5, 5)
    groups = dict(FCN, channels=12, norm_cfg=dict(type='GN', num_groups=4))
    # Half of 12, rounded up to full groups.
    assert build(groups, attn_channels=None).scale_attn.bn0.num_channels == 8
    with pytest.raises(ValueError, match='a multiple of the 4 groups of'):
        build(groups, attn_channels=6)
    with pytest.raises(ValueError, match='attn_channels=0; expected 1'):
        build(attn_channels=0)


@pytest.mark.skipif(
    compat.is_forked(), reason='the forks build it with compiled mmcv alone'
)
def test_a_head_without_classifier_is_named():
    points = dict(type='PointHead', in_channels=[16], in_index=[1])
    points.update(channels=16, num_classes=5)
    with pytest.raises(TypeError, match=r'PointHead has no .*conv_seg'):
        build(points)


def test_a_head_that_leaves_its_classifier_out_is_named():
    for change in (
        lambda head: setattr(head, 'cls_seg', lambda feats: feats),
        lambda head: head.register_forward_hook(lambda *args: args[2].feats),
    ):
        head = build()
        change(head.seg_head)
        with pytest.raises(RuntimeError, match='not end in its classifier'):
            head.forward_seg_heads(feats_of()[0][1])


@pytest.mark.parametrize(
    ('seg_head', 'message'),
    [
        ([], r'decode_head\.seg_head must be'),
        ('FCNHead', r'decode_head\.seg_head must be'),
        ([FCN, 'OCRHead'], r'decode_head\.seg_head must be'),
        ([dict(FCN, num_classes=7), FCN], r'same num_classes, got \[7, 5\]'),
        (dict(FCN, num_classes=0), 'num_classes=0; expected an integer'),
    ],
)
@pytest.mark.fault(
    'seg heads that are missing, or of several num_classes',
    'refused, with what was found',
)
def test_bad_seg_heads(seg_head, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build(seg_head)


@pytest.mark.fault(
    'a checkpoint with another attn_channels',
    'refused, with the value to set',
)
@pytest.mark.fault(
    'a checkpoint with another num_classes',
    'refused, or a new classifier with reinit_classifier=True',
)
def test_checkpoints_of_another_width_or_other_classes():
    wide, narrow = build(attn_channels=16), build(attn_channels=None)
    with pytest.raises(ValueError, match=r'16 .*\n?.*attn_channels=16'):
        narrow.load_state_dict(wide.state_dict(), strict=False)
    head, other = build(cascade()), build(cascade(), num_classes=7)
    with pytest.raises(ValueError, match=r'holds 7 classes .* model 5'):
        load_state_dict(head, other.state_dict())
    with pytest.raises(ValueError, match=r'seg_head\.0\.conv_seg\.weight'):
        head.load_state_dict(other.state_dict())

    head = build(cascade(), reinit_classifier=True)
    before = head.seg_head[1].conv_seg.weight.clone()
    missing = head.load_state_dict(other.state_dict(), strict=False)
    assert sorted(missing.missing_keys) == [
        f'seg_head.{i}.conv_seg.{name}'
        for i in (0, 1)
        for name in ('bias', 'weight')
    ]
    assert not missing.unexpected_keys
    assert torch.equal(head.seg_head[1].conv_seg.weight, before)
    own = head.scale_attn.conv0.weight
    assert torch.equal(own, other.scale_attn.conv0.weight)
