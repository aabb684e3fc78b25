"""Results made row by row, against mmseg's of whole logits."""

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.evaluation import IoUMetric
from mmseg.evaluation.metrics import citys_metric
from mmseg.models.segmentors import EncoderDecoder
from mmseg.visualization import SegLocalVisualizer
from oracles.live_bytes import peak_live_bytes
from test_models.cases import (
    BINARY,
    FCN,
    SCALES,
    build_head,
    predict,
    predict_all_classes,
    sample,
    set_costs,
    with_cfg,
)

from hmsa_mmseg.models.segmentors.results import (
    confidence_of,
    make_results,
)
from hmsa_mmseg.models.tiled.logit_rows import WholeLogits
from hmsa_mmseg.models.tiled.restored_logits import RestoredLogits
from hmsa_mmseg.models.utils import execution

# Odd, enlarged, reduced, one side each, and kept.
ORI_SHAPES = [(77, 121), (23, 19), (40, 130), (11, 64), (35, 61)]
FLIPS = [None, 'horizontal', 'vertical']
SLIDE = dict(mode='slide', crop_size=(32, 32), stride=(20, 24))


def restored(ori_shape, padding=(1, 2, 0, 5), flip=None):
    """A sample of a result that is to be restored."""
    return sample(
        ori_shape,
        img_padding_size=padding,
        padding_size=[9, 9, 9, 9],
        flip=flip is not None,
        flip_direction=flip,
    )


class CountedLogits(WholeLogits):
    """Whole logits that count how often each row is asked for."""

    def __init__(self, logits):
        super().__init__(logits)
        self.made = torch.zeros(logits.shape[2])

    def make(self, rows, take):
        self.made[rows] += 1
        return super().make(rows, take)

    def image(self, index):
        return self


@pytest.fixture
def limit_tiles(monkeypatch):
    """Return a function that makes tiles of some bytes, down to a row."""

    def limit(tile_bytes):
        set_costs(monkeypatch, tile_bytes=tile_bytes)
        monkeypatch.setattr(execution, 'MIN_ROWS', 1)

    return limit


def check(result, expected, threshold):
    """Against mmseg's result, with logits or probabilities.

    Classes may differ where the two best are about equal.
    """
    logits, found = expected.seg_logits.data, result.pred_sem_seg.data
    assert 'seg_logits' not in result
    assert found.shape == (1, *logits.shape[1:])
    if len(logits) == 1:
        margin = (logits - threshold).abs()
        confidence = torch.where(found == 1, logits, 1 - logits)
    else:
        best = logits.topk(2, dim=0).values
        margin = best[:1] - best[1:]
        confidence = logits.double().softmax(dim=0).amax(dim=0)[None]
    same = found.long() == expected.pred_sem_seg.data.long()
    assert margin[~same].max().item() < 1e-4 if (~same).any() else True
    assert same.float().mean() > 0.99
    assert result.confidence.data.dtype == torch.float32
    torch.testing.assert_close(
        result.confidence.data, confidence.float(), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize(
    ('num_classes', 'align_corners', 'tile_bytes'),
    [(1, False, 6000), (5, True, 1), (5, False, None)],
)
def test_rows_equal_mmsegs_results(
    num_classes, align_corners, tile_bytes, limit_tiles
):
    if tile_bytes is not None:
        limit_tiles(tile_bytes)
    logits = 3 * torch.randn(1, num_classes, 40, 64)
    fake = ConfigDict(
        align_corners=align_corners, decode_head=dict(threshold=0.3)
    )
    for ori_shape, flip in itertools.product(ORI_SHAPES, FLIPS):
        one = restored(ori_shape, flip=flip)
        [expected] = EncoderDecoder.postprocess_result(
            fake, logits.clone(), [one.clone()]
        )
        source = CountedLogits(logits)
        [found] = make_results(
            source, [one.clone()], align_corners, 0.3, True, True
        )
        check(found, expected, 0.3)
        assert found.pred_sem_seg.data.dtype == torch.int16
        # Padding is never blended, and without tiles no row twice.
        assert source.made.max() >= 1
        assert source.made[35:].sum() == 0
        if tile_bytes is None:
            assert source.made.max() == 1


@pytest.mark.parametrize(
    ('head', 'seg_head', 'dtype'),
    [
        ('hierarchical', FCN, 'bfloat16'),
        ('hierarchical', BINARY, None),
        ('average', BINARY, 'bfloat16'),
        ('attention-to-scale', FCN, None),
    ],
)
def test_without_logits_as_with_them(
    head, seg_head, dtype, tiny_model_cfg, make_batch
):
    """Also where backbone and heads compute in fewer bits."""
    inputs, _ = make_batch(batch_size=3, size=(40, 64))
    model = build_head(tiny_model_cfg, head, seg_head, train_scales=SCALES)
    predict_all_classes(model, inputs)
    samples = [
        restored((35, 61)),
        restored((77, 121), flip='vertical'),
        restored((23, 19), [0] * 4, flip='horizontal'),
    ]
    with torch.no_grad():
        expected = EncoderDecoder.predict(
            with_cfg(model, dtype=dtype), inputs, copy.deepcopy(samples)
        )
    cfg = dict(dtype=dtype, confidence=True)
    both = predict(with_cfg(model, **cfg), inputs, samples)
    lean = predict(with_cfg(model, **cfg, classes_only=True), inputs, samples)
    for one, mine, theirs in zip(both, lean, expected):
        check(mine, theirs, 0.45)
        torch.testing.assert_close(
            one.seg_logits.data, theirs.seg_logits.data, rtol=0, atol=1e-4
        )
        assert one.pred_sem_seg.data.dtype == theirs.pred_sem_seg.data.dtype
        # Saved, a view would take the memory of the whole batch along.
        held = one.seg_logits.data.untyped_storage().nbytes()
        assert held == one.seg_logits.data.numel() * 4
        del one.seg_logits
        check(one, theirs, 0.45)


def test_slide_and_scale_maps(build_lively, make_batch):
    model = build_lively()
    inputs, _ = make_batch(batch_size=1, size=(40, 64))
    samples = [restored((77, 121))]
    with torch.no_grad():
        expected = EncoderDecoder.predict(
            with_cfg(model, **SLIDE), inputs, copy.deepcopy(samples)
        )
    for more in (dict(confidence=True), dict(scale_maps=True)):
        with_cfg(model, classes_only=True, **more, **SLIDE)
        [found] = predict(model, inputs, samples)
        check(found, expected[0], None)


def test_labels_stay_with_the_results(build_lively, make_batch):
    model = with_cfg(build_lively(), classes_only=True)
    inputs, samples = make_batch()
    results = predict(model, inputs, samples)
    alone = predict(model, inputs)
    for result, given, other in zip(results, samples, alone):
        assert torch.equal(result.gt_sem_seg.data, given.gt_sem_seg.data)
        assert torch.equal(result.pred_sem_seg.data, other.pred_sem_seg.data)


def test_mmseg_takes_the_classes(build_lively, make_batch, monkeypatch):
    """Metrics and pictures are those of the classes that mmseg makes."""
    model = build_lively()
    inputs, samples = make_batch()
    for one in samples:
        # An index that no uint8 holds, and one that a cast must not move.
        one.gt_sem_seg.data[:, 5:9] = -1
        one.set_metainfo(dict(img_path='image.png'))
    labels = {i: SimpleNamespace(id=i + 7) for i in range(5)}
    labels[-1], labels[255] = SimpleNamespace(id=-1), SimpleNamespace(id=0)
    stand_in = SimpleNamespace(trainId2label=labels)
    monkeypatch.setattr(citys_metric, 'CSLabels', stand_in)
    to_ids = citys_metric.CityscapesMetric._convert_to_label_id
    draw = SegLocalVisualizer(vis_backends=[])._draw_sem_seg
    black, palette = np.zeros((64, 64, 3), np.uint8), np.eye(5, 3) * 200
    found = []
    for classes_only in (False, True):
        with_cfg(model, classes_only=classes_only)
        results = predict(model, inputs, samples)
        metric = IoUMetric(ignore_index=-1)
        metric.dataset_meta = dict(classes=list('abcde'))
        metric.process({}, [result.to_dict() for result in results])
        classes = results[0].pred_sem_seg
        picture = draw(black, classes, list('abcde'), palette.tolist())
        assert np.ptp(picture) > 0
        ids = to_ids(classes.data[0].numpy())
        areas = [area.numpy() for one in metric.results for area in one]
        found.append([picture, ids, *areas])
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ('size', 'crop_size', 'stride'),
    [
        ((64, 96), (32, 48), (32, 48)),
        ((41, 67), (32, 32), (20, 24)),
        ((20, 90), (99, 99), (7, 50)),
        ((20, 90), (32, 32), (20, 24)),
    ],
)
def test_slide_equals_mmsegs(
    crop_size, stride, size, build_lively, make_batch
):
    model = with_cfg(
        build_lively(), mode='slide', crop_size=crop_size, stride=stride
    )
    inputs, _ = make_batch(size=size)
    with torch.no_grad():
        found = model.slide_inference(inputs, [{}, {}])
        expected = EncoderDecoder.slide_inference(model, inputs, [{}, {}])
    assert torch.equal(found, expected)


@pytest.mark.needs_torch('freed_storages')
def test_slide_takes_less_memory(build_lively, make_batch):
    model = with_cfg(
        build_lively(seg_head=dict(BINARY, num_classes=50, out_channels=50)),
        mode='slide',
        crop_size=(32, 32),
        stride=(32, 32),
    )
    inputs, _ = make_batch(batch_size=1, size=(128, 128))
    logits = 50 * 128 * 128 * 4
    with torch.no_grad():
        ours, mmsegs = (
            peak_live_bytes(lambda way=way: way(model, inputs, [{}]))
            for way in (
                type(model).slide_inference,
                EncoderDecoder.slide_inference,
            )
        )
    assert ours < 1.4 * logits
    assert mmsegs > 2 * logits


@pytest.mark.needs_torch('freed_storages')
@pytest.mark.parametrize('ori_shape', [(64, 96), (128, 160)])
def test_no_logits_are_made(
    ori_shape, tiny_model_cfg, make_batch, limit_tiles
):
    """Neither at the size of the input nor at that of the file."""
    fcn = dict(FCN, num_classes=200)
    inputs, _ = make_batch(batch_size=1, size=(64, 96))
    model = build_head(tiny_model_cfg, seg_head=fcn)
    logits = 200 * 4 * 64 * 96
    at_file = 200 * 4 * ori_shape[0] * ori_shape[1]
    samples = [restored(ori_shape, [0] * 4)]
    with_cfg(model)
    full = peak_live_bytes(lambda: predict(model, inputs, samples))
    with_cfg(model, classes_only=True, confidence=True)
    # Smaller than the logits; of tiles of 16 rows, up to 12 more are made.
    limit_tiles(1 << 17)
    lean = peak_live_bytes(lambda: predict(model, inputs, samples))
    assert full > at_file
    assert lean < 0.8 * logits


def test_confidence_of_classes_that_are_given():
    logits = torch.randn(5, 7, 9)
    classes = torch.randint(0, 5, (1, 7, 9))
    expected = logits.double().softmax(dim=0).gather(0, classes)
    found = confidence_of(logits, classes)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-6)
    # Far from zero, where an exponential would overflow.
    found = confidence_of(300 * logits.sign(), classes)
    assert found.isfinite().all()
    second = torch.rand(1, 7, 9)
    given = (second > 0.3).float()
    found = confidence_of(second, given)
    expected = torch.where(given == 1, second, 1 - second)
    assert torch.equal(found, expected)


def test_a_row_in_the_middle():
    """Rows in any order, as a caller may ask for them."""
    logits = torch.randn(1, 3, 20, 30)
    meta = dict(flip=True, flip_direction='vertical')
    restored = RestoredLogits(CountedLogits(logits), meta, (47, 61), False)
    expected = F.interpolate(
        logits.flip(2), (47, 61), mode='bilinear', align_corners=False
    )
    for rows in (slice(30, 34), slice(3, 4), slice(31, 47), slice(0, 47)):
        torch.testing.assert_close(
            restored.rows(rows), expected[:, :, rows], rtol=0, atol=1e-5
        )
    whole = WholeLogits(logits)
    [one] = RestoredLogits(whole, meta, (47, 61), False).image(0).maps
    assert torch.equal(one, logits)
    meta['flip_direction'] = 'diagonal'
    with pytest.raises(ValueError, match=r"horizontal or .* got 'diagonal'"):
        RestoredLogits(whole, meta, (47, 61), False)
