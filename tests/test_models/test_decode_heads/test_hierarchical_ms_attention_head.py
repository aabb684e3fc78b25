import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from mmengine.runner.checkpoint import load_state_dict
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS

from hmsa_mmseg import compat

NORM = dict(type='BN', requires_grad=True)
FCN = dict(
    type='FCNHead',
    in_channels=16,
    channels=8,
    num_convs=1,
    num_classes=5,
    norm_cfg=NORM,
)


def cascade(**last):
    aux = dict(FCN, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))
    return [
        dict(aux, dropout_ratio=0),
        dict(
            type='OCRHead',
            in_channels=16,
            channels=8,
            ocr_channels=4,
            num_classes=5,
            norm_cfg=NORM,
            **last,
        ),
    ]


def build(seg_head=None, **kwargs):
    cfg = dict(
        type='HierarchicalMSAttentionHead',
        seg_head=seg_head or dict(FCN),
        attn_channels=8,
    )
    cfg.update(kwargs)
    return MODELS.build(cfg)


def feats_of(scales=(0.5, 1.0), size=(32, 48), batch=2, channels=16):
    found = []
    for scale in scales:
        h, w = (math.ceil(int(s * scale) / 4) for s in size)
        found.append((scale, (torch.randn(batch, channels, h, w),)))
    return found


def test_exposes_what_mmseg_reads():
    head = build(dict(FCN, align_corners=True, ignore_index=7))
    assert (head.num_classes, head.out_channels) == (5, 5)
    assert head.align_corners is True
    assert head.ignore_index == 7
    assert head.threshold is None


def test_num_classes_overrides_every_seg_head():
    head = build(cascade(), num_classes=65)
    assert [h.conv_seg.out_channels for h in head.seg_head] == [65, 65]
    assert head.num_classes == 65


def test_forward_of_one_scale():
    head = build(cascade()).eval()
    ((_, feats),) = feats_of((1.0,))
    seg_logits, aux_logits, scale_attn = head(feats)
    assert seg_logits.shape == aux_logits.shape == (2, 5, 8, 12)
    assert scale_attn.shape == (2, 1, 8, 12)
    assert scale_attn.min() >= 0
    assert scale_attn.max() <= 1
    # The same heads run by hand, as mmseg's cascade does.
    first, last = head.seg_head
    assert torch.equal(aux_logits, first(feats))
    # Ours ends before its classifier.
    last_feats = last(feats, first(feats)).feats
    assert torch.equal(seg_logits, BaseDecodeHead.cls_seg(last, last_feats))


def test_a_head_alone_has_no_aux_logits_and_short_keys():
    head = build()
    assert head(feats_of()[0][1])[1] is None
    keys = {key.split('.')[0] for key in head.state_dict()}
    assert keys == {'seg_head', 'scale_attn'}
    assert 'seg_head.conv_seg.weight' in head.state_dict()


def test_attention_branch_is_the_paper_s():
    branch = build(cascade(), attn_channels=6).scale_attn
    weights = {k: tuple(v.shape) for k, v in branch.named_parameters()}
    assert weights == {
        'conv0.weight': (6, 8, 3, 3),
        'bn0.weight': (6,),
        'bn0.bias': (6,),
        'conv1.weight': (6, 6, 3, 3),
        'bn1.weight': (6,),
        'bn1.bias': (6,),
        'conv2.weight': (1, 6, 1, 1),
    }
    feats = torch.randn(2, 8, 5, 7)
    branch.eval()
    x = feats
    for conv, bn in ((branch.conv0, branch.bn0), (branch.conv1, branch.bn1)):
        x = F.conv2d(x, conv.weight, padding=1)
        x = F.relu(x / math.sqrt(1 + bn.eps))
    expected = torch.sigmoid(F.conv2d(x, branch.conv2.weight))
    torch.testing.assert_close(branch(feats), expected)


def test_attention_reads_the_classifier_s_features_after_dropout():
    head = build(cascade(dropout_ratio=0.5)).train()
    seen = []
    head.scale_attn.register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    last = head.seg_head[-1]
    last.conv_seg.register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    head(feats_of()[0][1])
    assert seen[0] is seen[1]
    # Dropout2d at work: some channels are zero everywhere.
    assert (seen[0].flatten(2) == 0).all(dim=2).any()


def test_loss_keys(make_batch):
    _, samples = make_batch(size=(32, 48))
    inputs = feats_of()
    losses = build().loss(inputs, (32, 48), samples)
    assert losses.keys() == {'decode.loss_ce', 'decode.acc_seg'}
    loss_scale = [
        dict(type='CrossEntropyLoss', loss_weight=0.05),
        dict(type='DiceLoss', loss_weight=0.05),
    ]
    head = build(cascade(), loss_scale=loss_scale)
    assert head.loss(inputs, (32, 48), samples).keys() == {
        'decode.loss_ce',
        'decode.acc_seg',
        'aux.loss_ce',
        'aux.acc_seg',
        'scale_0.5.loss_ce',
        'scale_0.5.loss_dice',
        'scale_1.loss_ce',
        'scale_1.loss_dice',
    }


def test_losses_of_the_same_name_add_up(make_batch):
    _, samples = make_batch(size=(32, 48))
    inputs = feats_of()
    once = dict(type='CrossEntropyLoss', loss_weight=0.05)
    head = build(loss_scale=once).eval()
    single = head.loss(inputs, (32, 48), samples)['scale_1.loss_ce']
    head.loss_scale.append(MODELS.build(once))
    double = head.loss(inputs, (32, 48), samples)['scale_1.loss_ce']
    torch.testing.assert_close(double, 2 * single)


def test_losses_equal_the_written_out_formula(make_batch):
    size = (32, 48)
    _, samples = make_batch(size=size)
    label = torch.stack([s.gt_sem_seg.data for s in samples]).squeeze(1)
    mean = dict(type='CrossEntropyLoss', avg_non_ignore=True)
    seg_head = cascade(dropout_ratio=0, loss_decode=mean)
    seg_head[0]['loss_decode'] = dict(mean, loss_weight=0.4)
    head = build(seg_head, loss_scale=dict(mean, loss_weight=0.05)).eval()
    (_, lo), (_, hi) = inputs = feats_of(size=size)
    losses = head.loss(inputs, size, samples)

    def up(x, to):
        return F.interpolate(x, to, mode='bilinear', align_corners=False)

    def ce(logits):
        return F.cross_entropy(logits, label, ignore_index=255)

    (p_lo, x_lo, attn), (p_hi, x_hi, _) = head(lo), head(hi)
    half = (16, 24)
    attn = up(attn, half)
    p_lo, x_lo = up(p_lo, half), up(x_lo, half)
    p_hi, x_hi = up(p_hi, size), up(x_hi, size)
    joint = up(attn * p_lo, size) + (1 - up(attn, size)) * p_hi
    joint_aux = up(attn * x_lo, size) + (1 - up(attn, size)) * x_hi
    expected = {
        'decode.loss_ce': ce(joint),
        'aux.loss_ce': 0.4 * ce(joint_aux),
        'scale_0.5.loss_ce': 0.05 * ce(up(p_lo, size)),
        'scale_1.loss_ce': 0.05 * ce(p_hi),
    }
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value)


def test_attention_learns_from_the_blended_loss(make_batch):
    _, samples = make_batch(size=(32, 48))
    head = build()
    head.loss(feats_of(), (32, 48), samples)['decode.loss_ce'].backward()
    for name, param in head.named_parameters():
        assert param.grad is not None, name
        assert param.grad.abs().sum() > 0, name


def test_top_attention_updates_statistics_without_gradient(make_batch):
    _, samples = make_batch(size=(32, 48))
    for skip, updates in ((False, 2), (True, 1)):
        head = build(skip_top_scale_attn=skip)
        calls = []
        head.scale_attn.register_forward_hook(
            lambda _, args, out, calls=calls: calls.append(out.requires_grad)
        )
        head.loss(feats_of(), (32, 48), samples)
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
        head.predict(reversed(feats_of(scales)), (32, 48))
        assert len(calls) == count - 1


def test_hooks_do_not_pile_up():
    head = build()
    for _ in range(3):
        head(feats_of()[0][1])
    assert not head.seg_head.conv_seg._forward_hooks


def test_leaves_no_hook_behind_after_an_error():
    head = build()
    with pytest.raises(RuntimeError, match='channels'):
        head((torch.randn(1, 3, 8, 8),))
    assert not head.seg_head.conv_seg._forward_hooks


def test_several_outputs_are_blended_each(make_batch):
    """DAHead gives three maps, EncHead a map and a vector per image."""
    _, samples = make_batch(size=(32, 48))
    danet = dict(
        type='DAHead',
        in_channels=16,
        channels=8,
        pam_channels=4,
        num_classes=5,
        norm_cfg=NORM,
    )
    losses = build(danet).loss(feats_of(), (32, 48), samples)
    assert losses.keys() == {
        f'decode.{part}.{key}'
        for part in ('pam_cam', 'pam', 'cam')
        for key in ('loss_ce', 'acc_seg')
    }
    encnet = dict(
        type='EncHead',
        in_channels=[16],
        in_index=[0],
        channels=8,
        num_codes=4,
        num_classes=5,
        norm_cfg=NORM,
    )
    losses = build(encnet).loss(feats_of(), (32, 48), samples)
    assert {'decode.loss_ce', 'decode.loss_se'} <= losses.keys()


def test_the_classifier_s_output_is_the_main_one():
    """PIDHead trains with three outputs, its classifier's is the second."""
    head = build(
        dict(
            type='PIDHead',
            in_channels=16,
            channels=8,
            num_classes=5,
            norm_cfg=NORM,
            loss_decode=[dict(type='CrossEntropyLoss')] * 4,
        )
    ).train()
    feats = (
        torch.randn(2, 8, 8, 8),
        torch.randn(2, 16, 8, 8),
        torch.randn(2, 8, 8, 8),
    )
    outputs = head.forward_seg_heads(feats)
    assert outputs.seg_logits is outputs.outputs[0][1]


def test_group_norm_and_sync_bn_reach_the_branch():
    gn = dict(type='GN', num_groups=2)
    assert isinstance(
        build(dict(FCN, norm_cfg=gn)).scale_attn.bn0, torch.nn.GroupNorm
    )
    sync = build(dict(FCN, norm_cfg=dict(type='SyncBN')))
    assert isinstance(sync.scale_attn.bn0, torch.nn.SyncBatchNorm)
    reverted = revert_sync_batchnorm(sync)
    assert not isinstance(reverted.scale_attn.bn0, torch.nn.SyncBatchNorm)
    none = build(dict(FCN, norm_cfg=None))
    assert isinstance(none.scale_attn.bn0, torch.nn.BatchNorm2d)
    own = build(norm_cfg=gn)
    assert isinstance(own.scale_attn.bn0, torch.nn.GroupNorm)


@pytest.mark.skipif(
    compat.is_forked(), reason='the forks build it with compiled mmcv alone'
)
def test_a_head_without_classifier_is_named():
    points = dict(
        type='PointHead',
        in_channels=[16],
        in_index=[1],
        channels=16,
        num_classes=5,
    )
    with pytest.raises(TypeError, match=r'PointHead has no .*conv_seg'):
        build(points)


def test_a_head_that_leaves_its_classifier_out_is_named():
    head = build()
    head.seg_head.cls_seg = lambda feats: feats
    with pytest.raises(RuntimeError, match='did not end in its classifier'):
        head(feats_of()[0][1])
    head = build()
    head.seg_head.register_forward_hook(lambda *args: args[2].feats)
    with pytest.raises(RuntimeError, match='did not end in its classifier'):
        head(feats_of()[0][1])


@pytest.mark.parametrize('seg_head', [[], 'FCNHead', [FCN, 'OCRHead']])
def test_seg_head_must_be_configs(seg_head):
    with pytest.raises(TypeError, match=r'decode_head\.seg_head must be'):
        MODELS.build(
            dict(type='HierarchicalMSAttentionHead', seg_head=seg_head)
        )


def test_a_cascade_must_agree_on_its_classes():
    seg_head = cascade()
    seg_head[0]['num_classes'] = 7
    with pytest.raises(ValueError, match=r'same num_classes, got \[7, 5\]'):
        build(seg_head)


def test_attention_is_half_as_wide_as_what_the_classifier_reads():
    wide = build(dict(FCN, channels=10), attn_channels=None)
    assert wide.scale_attn.conv0.weight.shape[:2] == (5, 10)
    assert wide.scale_attn.conv1.weight.shape[:2] == (5, 5)


def test_a_branch_without_channels_is_refused():
    with pytest.raises(ValueError, match='attn_channels=0; expected 1'):
        build(attn_channels=0)


def test_checkpoint_of_another_width_is_refused():
    wide, narrow = build(attn_channels=16), build(attn_channels=None)
    with pytest.raises(ValueError, match=r'16 .*\n?.*attn_channels=16'):
        narrow.load_state_dict(wide.state_dict(), strict=False)


def test_checkpoint_of_other_classes_is_refused():
    head, other = build(cascade()), build(cascade(), num_classes=7)
    with pytest.raises(ValueError, match=r'holds 7 classes .* model 5'):
        load_state_dict(head, other.state_dict())
    with pytest.raises(ValueError, match=r'seg_head\.0\.conv_seg\.weight'):
        head.load_state_dict(other.state_dict())


def test_checkpoint_of_other_classes_on_request():
    head = build(cascade(), reinit_classifier=True)
    other = build(cascade(), num_classes=7)
    before = head.seg_head[1].conv_seg.weight.clone()
    missing = head.load_state_dict(other.state_dict(), strict=False)
    assert sorted(missing.missing_keys) == [
        f'seg_head.{i}.conv_seg.{name}'
        for i in (0, 1)
        for name in ('bias', 'weight')
    ]
    assert not missing.unexpected_keys
    assert torch.equal(head.seg_head[1].conv_seg.weight, before)
    assert torch.equal(
        head.scale_attn.conv0.weight, other.scale_attn.conv0.weight
    )
