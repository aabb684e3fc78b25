"""Results made row by row, against mmseg's of whole logits."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from hmsa_mmseg.analysis.live_bytes import peak_live_bytes
from hmsa_mmseg.models import AccumulatingTTAModel
from hmsa_mmseg.models.segmentors.results import (
    confidence_of,
    make_results,
)
from hmsa_mmseg.models.tiled.logit_rows import WholeLogits
from hmsa_mmseg.models.tiled.restored_logits import RestoredLogits
from hmsa_mmseg.models.utils import execution

SCALES = (0.5, 1.0, 2.0)
BINARY = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    num_classes=2,
    out_channels=1,
    threshold=0.45,
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
)
HEADS = (
    'HierarchicalMSAttentionHead',
    'MultiScaleAverageHead',
    'AttentionToScaleHead',
)
# Odd, enlarged, reduced, one side each, and kept.
ORI_SHAPES = [(77, 121), (23, 19), (40, 130), (11, 64), (35, 61)]
PADDING = [1, 2, 0, 5]
FLIPS = [None, 'horizontal', 'vertical']


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
        sizes = dict.fromkeys(execution.TILE_BYTES, tile_bytes)
        monkeypatch.setattr(execution, 'TILE_BYTES', sizes)
        monkeypatch.setattr(execution, 'MIN_ROWS', 1)

    return limit


def sample(ori_shape, padding=PADDING, flip=None):
    return SegDataSample(
        metainfo=dict(
            ori_shape=ori_shape,
            img_padding_size=padding,
            padding_size=[9, 9, 9, 9],
            flip=flip is not None,
            flip_direction=flip,
        )
    )


def with_cfg(model, **test_cfg):
    model.test_cfg = ConfigDict(
        dict(dict(mode='whole', scales=SCALES), **test_cfg)
    )
    return model.eval()


@torch.no_grad()
def predict(model, inputs, samples):
    return model.predict(inputs, copy.deepcopy(samples))


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


@pytest.mark.parametrize('tile_bytes', [1, 6000, None])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('num_classes', [1, 5])
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
        one = sample(ori_shape, flip=flip)
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


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
@pytest.mark.parametrize('seg_head', [None, BINARY], ids=['5', 'binary'])
@pytest.mark.parametrize('head', HEADS)
def test_without_logits_as_with_them(
    head, seg_head, dtype, tiny_model_cfg, make_batch
):
    """Also where backbone and heads compute in fewer bits."""
    inputs, _ = make_batch(batch_size=3, size=(40, 64))
    model = build_head(tiny_model_cfg, inputs, head, seg_head)
    samples = [
        sample((35, 61), flip='vertical'),
        sample((77, 121)),
        sample((23, 19), [0] * 4, flip='horizontal'),
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
        del one.seg_logits
        check(one, theirs, 0.45)


@torch.no_grad()
def build_head(tiny_model_cfg, inputs, head=HEADS[0], seg_head=None):
    """Build a model with another head that predicts all classes."""
    cfg = tiny_model_cfg(seg_head=seg_head, train_scales=SCALES)
    seg_head = cfg['decode_head']['seg_head']
    cfg['decode_head'] = dict(type=head, seg_head=seg_head)
    model = MODELS.build(ConfigDict(cfg)).eval()
    classifier = model.decode_head.seg_head.conv_seg
    torch.nn.init.normal_(classifier.weight)
    logits = model.encode_decode(inputs)
    classifier.bias -= logits.mean(dim=(0, 2, 3))
    return model


def test_slide_and_scale_maps(build_lively, make_batch):
    model = build_lively()
    inputs, _ = make_batch(batch_size=1, size=(40, 64))
    samples = [sample((77, 121))]
    windows = dict(mode='slide', crop_size=(32, 32), stride=(20, 24))
    with torch.no_grad():
        expected = EncoderDecoder.predict(
            with_cfg(model, **windows), inputs, copy.deepcopy(samples)
        )
    for more in (dict(confidence=True), dict(scale_maps=True)):
        with_cfg(model, classes_only=True, **more, **windows)
        [found] = predict(model, inputs, samples)
        check(found, expected[0], None)


@pytest.mark.needs_torch('freed_storages')
@pytest.mark.parametrize('ori_shape', [(64, 96), (128, 160)])
def test_no_logits_are_made(
    ori_shape, tiny_model_cfg, make_batch, limit_tiles
):
    """Neither at the size of the input nor at that of the file."""
    fcn = dict(BINARY, num_classes=200, out_channels=200)
    fcn.pop('loss_decode')
    inputs, _ = make_batch(batch_size=1, size=(64, 96))
    model = build_head(tiny_model_cfg, inputs, seg_head=fcn)
    logits = 200 * 4 * 64 * 96
    at_file = 200 * 4 * ori_shape[0] * ori_shape[1]
    samples = [sample(ori_shape, [0] * 4)]
    with_cfg(model)
    full = peak_live_bytes(lambda: predict(model, inputs, samples))
    with_cfg(model, classes_only=True, confidence=True)
    # Smaller than the logits; of tiles of 16 rows, up to 12 more are made.
    limit_tiles(1 << 17)
    lean = peak_live_bytes(lambda: predict(model, inputs, samples))
    assert full > at_file
    assert lean < 0.8 * logits


def views_of(images, ori_shape, flips):
    dims = dict(horizontal=(2,), vertical=(1,))
    return dict(
        inputs=[[x.flip(dims.get(f, ())) for x in images] for f in flips],
        data_samples=[
            [
                SegDataSample(
                    metainfo=dict(
                        ori_shape=ori_shape,
                        img_shape=tuple(x.shape[1:]),
                        flip=f is not None,
                        flip_direction=f,
                    )
                )
                for x in images
            ]
            for f in flips
        ],
    )


def mean_of_views(module, data, average):
    """The definition: every view restored as a whole, by mmseg."""
    total = 0
    for inputs, samples in zip(data['inputs'], data['data_samples']):
        batch = module.data_preprocessor(
            dict(inputs=inputs, data_samples=copy.deepcopy(samples))
        )
        with torch.no_grad():
            results = EncoderDecoder.postprocess_result(
                module,
                module.encode_decode(batch['inputs']),
                batch['data_samples'],
            )
        logits = torch.stack([one.seg_logits.data for one in results])
        if average == 'softmax':
            logits = logits.softmax(dim=1)
        total = total + logits
    return total / len(data['inputs'])


@pytest.mark.parametrize('average', ['logits', 'softmax'])
@pytest.mark.parametrize('ori_shape', [(77, 121), (23, 41)])
def test_flips_are_averaged_before_the_resize(
    ori_shape, average, build_lively
):
    """Also with padding, views of a second size, and down to less."""
    module = with_cfg(build_lively(), confidence=True)
    module.data_preprocessor.test_cfg = dict(size_divisor=16)
    image = torch.randint(0, 256, (3, 45, 70)).float()
    data = views_of([image], ori_shape, FLIPS)
    other = views_of([image[:, ::2, ::2]], ori_shape, FLIPS[:2])
    for views in (data, {key: data[key] + other[key] for key in data}):
        expected = mean_of_views(module, views, average)[0]
        model = AccumulatingTTAModel(module, average=average)
        with torch.no_grad():
            [found] = model.test_step(copy.deepcopy(views))
        probability = expected
        if average == 'logits':
            probability = expected.double().softmax(dim=0)
        torch.testing.assert_close(
            found.confidence.data,
            probability.amax(dim=0, keepdim=True).float(),
            rtol=0,
            atol=2e-5,
        )
        best = expected.topk(2, dim=0).values
        wrong = found.pred_sem_seg.data[0] != expected.argmax(dim=0)
        assert wrong.float().mean() < 0.01
        assert not wrong[(best[0] - best[1]) > 1e-4].any()


@pytest.mark.needs_torch('freed_storages')
def test_flips_make_no_logits_of_the_files_size(tiny_model_cfg, make_batch):
    fcn = dict(BINARY, num_classes=100, out_channels=100)
    fcn.pop('loss_decode')
    inputs, _ = make_batch(batch_size=1, size=(64, 96))
    module = build_head(tiny_model_cfg, inputs, seg_head=fcn)
    views = views_of([inputs[0]], (320, 480), FLIPS[:2])
    models = [
        AccumulatingTTAModel(module, average=average, confidence=True)
        for average in ('logits', 'softmax')
    ]
    with torch.no_grad():
        ours, at_file = (
            peak_live_bytes(lambda m=m: m.test_step(copy.deepcopy(views)))
            for m in models
        )
    logits = 100 * 4 * 320 * 480
    assert at_file > logits
    assert ours < 0.3 * logits


def test_confidence_with_tta_is_asked_for(build_lively):
    module = with_cfg(build_lively())
    views = views_of([torch.rand(3, 40, 56)], (40, 56), FLIPS[:2])
    for of_model, of_module, expected in (
        (None, False, False),
        (None, True, True),
        (False, True, False),
        (True, False, True),
    ):
        with_cfg(module, confidence=of_module)
        model = AccumulatingTTAModel(module, confidence=of_model)
        with torch.no_grad():
            [found] = model.test_step(copy.deepcopy(views))
        assert ('confidence' in found) == expected
    with pytest.raises(ValueError, match=r'tta_model\.confidence .* got 1'):
        AccumulatingTTAModel(module, confidence=1)


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
