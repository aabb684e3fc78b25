"""Scores of scales alone, averaged and blended, against the model's own."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from hmsa_mmseg.analysis.scale_scores import Row, score_scales
from hmsa_mmseg.utils.confusion import count_confusion

SCALES = (0.5, 1.0, 2.0)


@pytest.fixture
def batches(make_batch):
    """Two batches of one image, of other sizes."""
    return [
        dict(inputs=[inputs[0]], data_samples=samples)
        for inputs, samples in (
            make_batch(1, (64, 48), seed=1),
            make_batch(1, (40, 56), seed=2),
        )
    ]


@torch.no_grad()
def logits(model, batch, scales, flip=False):
    model.test_cfg = ConfigDict(mode='whole', scales=scales)
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    inputs = data['inputs'].flip(3) if flip else data['inputs']
    found = model.encode_decode(inputs)
    return found.flip(3) if flip else found


def expected(model, batches, predict):
    """Count what a function of a batch predicts."""
    total = 0
    for batch in batches:
        label = batch['data_samples'][0].gt_sem_seg.data[0].numpy()
        classes = predict(batch).argmax(1)[0].numpy()
        total = total + count_confusion(label, classes, 5, 255)
    hits = np.diag(total)
    return (100 * hits / (total.sum(0) + total.sum(1) - hits)).tolist()


def test_blends_and_means_are_those_of_the_model(build_lively, batches):
    model = build_lively()

    def mean(batch, flip=False, of=lambda x: x):
        alone = [of(logits(model, batch, (s,), flip)) for s in SCALES]
        return sum(alone) / 3

    def probs(batch, scales, flip=False):
        return logits(model, batch, scales, flip).softmax(1)

    cases = {
        Row('blend', SCALES): lambda b: logits(model, b, SCALES),
        Row('blend', (0.5, 1.0)): lambda b: logits(model, b, (0.5, 1.0)),
        Row('logits', (2.0,)): lambda b: logits(model, b, (2.0,)),
        Row('logits', SCALES): mean,
        Row('probs', SCALES): lambda b: mean(b, of=lambda x: x.softmax(1)),
        Row('blend', SCALES, True): lambda b: (
            probs(b, SCALES) + probs(b, SCALES, True)
        ),
        Row('logits', SCALES, True): lambda b: mean(b) + mean(b, True),
    }
    found = score_scales(model, copy.deepcopy(batches), [*cases])
    assert len({str(row) for row in cases}) == len(cases)
    for row, predict in cases.items():
        iou = expected(model, batches, predict)
        assert found.rows[row]['IoU'].tolist() == pytest.approx(iou), row
        assert found.rows[row]['mIoU'] == pytest.approx(np.mean(iou)), row
    assert len({scores['mIoU'] for scores in found.rows.values()}) > 5


@pytest.mark.parametrize('head', [{}, dict(type='AttentionToScaleHead')])
def test_weights_are_those_of_the_scale_maps(build_lively, batches, head):
    model = build_lively(train_scales=SCALES, decode_head=head)
    row = Row('blend', SCALES)
    found = score_scales(model, copy.deepcopy(batches), [row])
    sums, pixels = np.zeros((3, 5)), np.zeros(5)
    model.test_cfg = ConfigDict(mode='whole', scales=SCALES, scale_maps=True)
    for batch in batches:
        data = model.data_preprocessor(copy.deepcopy(batch), False)
        with torch.no_grad():
            [result] = model.predict(**data)
        weights = result.scale_weights.data.numpy()
        label = batch['data_samples'][0].gt_sem_seg.data[0].numpy()
        for k in range(5):
            sums[:, k] += weights[:, label == k].sum(axis=1)
            pixels[k] += (label == k).sum()
    np.testing.assert_allclose(found.weights[SCALES], sums / pixels, rtol=1e-5)
    np.testing.assert_allclose(found.weights[SCALES].sum(axis=0), 1, rtol=1e-5)


def test_rows_that_make_no_sense_are_refused(build_lively, batches):
    model = build_lively()
    with pytest.raises(ValueError, match="mean 1: expected 'blend'"):
        score_scales(model, batches, [Row('mean', (1.0,))])
    with pytest.raises(ValueError, match=r'scales of blend.*different'):
        score_scales(model, batches, [Row('blend', (1.0, 1.0))])
