"""Classifiers of heads that have no `conv_seg` of their own."""

import pytest
import torch
from mmseg.registry import MODELS
from test_models.cases import FCN, KNET, UPDATE, step

from hmsa_mmseg.models.decode_heads.seg_heads import (
    call_seg_heads,
    end_before_classifier,
    find_classifier,
)

SEGMENTER = dict(
    type='SegmenterMaskTransformerHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_layers=1,
    num_heads=2,
    embed_dims=8,
    dropout_ratio=0.0,
    num_classes=5,
)
CASES = dict(knet=KNET, segmenter=SEGMENTER)
each_head = pytest.mark.parametrize('name', CASES)


@each_head
def test_features_and_logits_of_the_heads(name):
    """The features, by the heads' own parts."""
    head = MODELS.build(CASES[name]).eval()
    feats = [torch.randn(2, 8, 16, 24), torch.randn(2, 16, 8, 12)]
    with torch.no_grad():
        expected_logits = head(feats)
        end_before_classifier(head)
        outputs = call_seg_heads([head], feats)
    assert outputs.seg_logits.shape == (2, 5, 8, 12)
    torch.testing.assert_close(outputs.seg_logits, expected_logits)
    found = outputs.classifier_feats
    assert found.shape == (2, find_classifier(head).in_channels, 8, 12)
    if name == 'knet':
        expected = head.kernel_generate_head._forward_feature(feats)
        torch.testing.assert_close(found, expected)
    else:
        # What the logits of a pixel are made of: normalised, and compared
        # with those of the classes.
        patches = torch.nn.functional.normalize(found, dim=1)
        classes = []
        head.classes_proj.register_forward_hook(
            lambda _, args, output: classes.append(output)
        )
        head(feats)
        classes = torch.nn.functional.normalize(classes[0], dim=2)
        masks = torch.einsum('nchw,nkc->nhwk', patches, classes)
        masks = head.mask_norm(masks).permute(0, 3, 1, 2)
        torch.testing.assert_close(masks, outputs.seg_logits)


@each_head
@pytest.mark.parametrize('attention_only', [False, True])
def test_train_and_predict(name, attention_only, build_tiny, make_batch):
    cfg = dict(scales=(0.5, 1.0), attention_only=attention_only)
    model = build_tiny(seg_head=CASES[name], train_cfg=cfg)
    inputs, samples = batch = make_batch()
    losses, _ = step(model.train(), batch)
    stages = {key for key in losses if 'loss' in key}
    if name == 'segmenter':
        assert stages == {'decode.loss_ce'}
    else:
        # A frozen K-Net gives its last stage alone.
        count = 1 if attention_only else 3
        assert stages == {f'decode.loss_ce.s{i}' for i in range(count)}
    grad = model.decode_head.scale_attn.conv0.weight.grad
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0
    if name == 'knet' and attention_only:
        model.test_cfg.scales = (0.5, 1.0)
        # BN of the attention branch as in training.
        logits = model.encode_decode(inputs)
        label = torch.cat([sample.gt_sem_seg.data for sample in samples])
        expected = torch.nn.functional.cross_entropy(
            logits, label, ignore_index=255, reduction='sum'
        )
        torch.testing.assert_close(
            losses['decode.loss_ce.s0'], expected / label.numel()
        )
    with torch.no_grad():
        results = model.eval().predict(inputs, samples)
    assert results[0].seg_logits.data.shape == (5, 64, 64)


@each_head
def test_number_of_classes_is_checked(name, build_tiny):
    other = dict(CASES[name], num_classes=7)
    if name == 'knet':
        other = dict(
            KNET,
            kernel_generate_head=dict(FCN, num_classes=7),
            kernel_update_head=[dict(UPDATE, num_classes=7)] * 2,
        )
    state = build_tiny(seg_head=other).state_dict()
    with pytest.raises(ValueError, match=r'holds 7 classes \(decode_head\.'):
        build_tiny(seg_head=CASES[name]).load_state_dict(dict(state))
    model = build_tiny(
        seg_head=CASES[name], decode_head=dict(reinit_classifier=True)
    )
    missing, unexpected = model.load_state_dict(dict(state), strict=False)
    assert unexpected == []
    parts = 'conv_seg' if name == 'knet' else 'cls_emb|mask_norm'
    assert missing
    assert all(
        any(part in key for part in parts.split('|')) for key in missing
    )
