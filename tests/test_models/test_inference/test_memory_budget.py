"""Inference within a number of bytes."""

import math
import re

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from hmsa_mmseg.models.fast import pyramid_conv
from hmsa_mmseg.models.fast.coarse_levels import CoarseLevels
from hmsa_mmseg.models.fast.pyramid_conv import PyramidConv
from hmsa_mmseg.models.fast.resize_bands import resize_bands
from hmsa_mmseg.models.fast.tiles import (
    TILE_BYTES,
    kind_of,
    limit_tiles,
    rehearsal_for,
    row_tiles,
)
from hmsa_mmseg.models.inference import memory_budget
from hmsa_mmseg.models.inference.budget_call import places_of
from hmsa_mmseg.models.inference.memory_budget import plan_for
from hmsa_mmseg.models.inference.rehearsal import rehearse
from hmsa_mmseg.models.segmentors.settings import read_test_cfg
from hmsa_mmseg.utils.live_bytes import peak_live_bytes

SCALES = (0.5, 1.0, 2.0)
TINY_FCN = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    norm_cfg=dict(type='BN'),
)
LARGE = 10**12
META = dict(ori_shape=(64, 256))


def with_cfg(model, **test_cfg):
    model.test_cfg = ConfigDict(
        dict(dict(mode='whole', scales=SCALES), **test_cfg)
    )
    return model.eval()


@torch.no_grad()
def logits_and_peak(model, inputs, **test_cfg):
    """Predict twice: what a plan takes is not what the model takes."""
    with_cfg(model, **test_cfg).encode_decode(inputs)
    found = []
    peak = peak_live_bytes(lambda: found.append(model.encode_decode(inputs)))
    return found[0], peak


def plan(model, inputs, ori_shape=None, reserved=0, **test_cfg):
    """For logits, or for classes at another size."""
    settings = read_test_cfg(
        with_cfg(model, **test_cfg).test_cfg, model.decode_head
    )
    places = None
    if ori_shape is not None:
        places = places_of([dict(ori_shape=ori_shape)] * len(inputs))
    with settings.autocast(inputs.device):
        return plan_for(model, inputs, settings, places, reserved)


def needed(model, inputs, **test_cfg):
    """Bytes of all images at once."""
    return plan(model, inputs, memory_budget=LARGE, **test_cfg).peak


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('size', [(96, 128), (61, 83)])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_what_is_foretold_is_what_it_takes(
    dtype, size, fast, build_lively, make_batch
):
    model = build_lively(decode_head=dict(fast=fast))
    inputs, _ = make_batch(size=size)
    expected, peak = logits_and_peak(model, inputs, dtype=dtype)
    foretold = needed(model, inputs, dtype=dtype)
    slack = 1.03 if dtype is None else 1.3
    assert peak <= foretold < slack * peak
    found, _ = logits_and_peak(
        model, inputs, memory_budget=foretold, dtype=dtype
    )
    assert torch.equal(found, expected)


def test_images_one_by_one(build_lively, make_batch):
    model = build_lively()
    inputs, _ = make_batch(batch_size=4, size=(64, 96))
    together = plan(model, inputs, memory_budget=LARGE)
    alone = plan(model, inputs[:1], memory_budget=LARGE)
    assert together.batch == 4
    budget = (together.peak + alone.peak) // 2
    cut = plan(model, inputs, memory_budget=budget)
    assert cut.batch == 1
    assert alone.peak < cut.peak <= budget
    expected, _ = logits_and_peak(model, inputs)
    found, peak = logits_and_peak(model, inputs, memory_budget=budget)
    assert peak <= budget
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('confidence', 'ori_shape'), [(True, (64, 96)), (False, (131, 203))]
)
def test_results_one_by_one(confidence, ori_shape, build_lively, make_batch):
    """The class maps, at the size of the files, and confidence count."""
    model = build_lively()
    inputs, _ = make_batch(batch_size=3, size=(64, 96))
    cfg = dict(classes_only=True, confidence=confidence)
    one = (4 * confidence + 2) * math.prod(ori_shape)
    large = dict(cfg, memory_budget=LARGE)
    together = plan(model, inputs, ori_shape, **large)
    alone = plan(model, inputs[:1], ori_shape, **large)
    assert together.batch == 3
    budget = (together.peak + alone.peak) // 2
    cut = plan(model, inputs, ori_shape, memory_budget=budget, **cfg)
    assert cut.batch == 1
    # The first two images' results are held when the last is made.
    if cut.tile_bytes is None:
        assert cut.peak == alone.peak + 2 * one
    assert cut.peak <= budget
    samples = [SegDataSample(metainfo=dict(ori_shape=ori_shape))] * 3

    def predict():
        copies = [sample.clone() for sample in samples]
        with torch.no_grad():
            return model.predict(inputs, copies)

    expected = with_cfg(model, **cfg) and predict()
    with_cfg(model, memory_budget=budget, **cfg)
    found = []
    peak = peak_live_bytes(lambda: found.extend(predict()))
    assert 0.8 * cut.peak < peak <= cut.peak
    for mine, other in zip(found, expected):
        same = mine.pred_sem_seg.data == other.pred_sem_seg.data
        assert same.float().mean() > 0.999
        assert ('confidence' in mine) == confidence
        if confidence:
            torch.testing.assert_close(
                mine.confidence.data, other.confidence.data, rtol=0, atol=1e-5
            )


def test_blend_in_tiles_that_fit(build_lively, make_batch):
    """Where the blend takes most, its tiles are made smaller."""
    many = dict(TINY_FCN, num_classes=50)
    model = build_lively(seg_head=many)
    inputs, _ = make_batch(batch_size=1, size=(192, 256))
    cfg = dict(scales=(0.5, 1.0))
    usual = plan(model, inputs, memory_budget=LARGE, **cfg)
    assert usual.tile_bytes is None
    budget = int(0.8 * usual.peak)
    smaller = plan(model, inputs, memory_budget=budget, **cfg)
    assert smaller.tile_bytes < TILE_BYTES['cpu']
    found, peak = logits_and_peak(model, inputs, memory_budget=budget, **cfg)
    assert peak <= smaller.peak <= budget
    expected, peak = logits_and_peak(model, inputs, **cfg)
    assert peak > budget
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_limit_of_tiles():
    usual = row_tiles(1000, 1 << 19, torch.device('cpu'))
    assert usual[0] == slice(0, 4)
    with limit_tiles(1 << 20):
        assert row_tiles(1000, 1 << 19, torch.device('cpu'))[0].stop == 2
    with limit_tiles(1):
        assert row_tiles(1000, 1 << 19, torch.device('cpu'))[0].stop == 1
    assert row_tiles(1000, 1 << 19, torch.device('cpu')) == usual


@pytest.mark.parametrize('with_gradient', [False, True])
def test_tiles_that_take_the_same_are_rehearsed_once(
    with_gradient, monkeypatch
):
    levels = [torch.empty(1, 8, 160 >> i, 96 >> i) for i in range(3)]
    weight = torch.empty(16, 24, 3, 3)
    monkeypatch.setattr(
        pyramid_conv, '_is_coarse', lambda x, size, k: x.shape[2:] != size
    )
    calls = []
    blocks = CoarseLevels._blocks
    monkeypatch.setattr(
        CoarseLevels,
        '_blocks',
        lambda *args: calls.append(args) or blocks(*args),
    )

    def peak(*tensors):
        *levels, weight = (x.requires_grad_(with_gradient) for x in tensors)

        def run():
            found = PyramidConv(levels, weight, None, False).whole()
            if with_gradient:
                found.sum().backward()

        # Kept for the next pass; an earlier test may have made them.
        resize_bands.cache_clear()
        return peak_live_bytes(run)

    expected = peak(*levels, weight)
    num_tiles = len(calls)
    with rehearsal_for('cpu'):
        found = peak(*(x.detach().to('meta') for x in (*levels, weight)))
    assert found == expected > 0
    # Three chunks of rows, 10 by 6 tiles, twice with the backward pass.
    passes = 1 + with_gradient
    assert (num_tiles, len(calls) - num_tiles) == (60 * passes, 3 * passes)


def test_a_rehearsal_is_cut_as_on_the_device_of_the_model(build_lively):
    meta = torch.device('meta')
    with rehearsal_for('cuda'):
        assert kind_of(meta) == 'cuda'
        # Of kinds without tiles of their own.
        assert kind_of(torch.device('xpu')) == 'cpu'
        kinds = []
        rehearse(
            build_lively(),
            lambda image: kinds.append(kind_of(image.device)),
            (1, 3, 64, 64),
            torch.float32,
        )
        assert kinds == ['cpu']
        assert kind_of(meta) == 'cuda'
    assert kind_of(meta) == 'cpu'


def test_too_little_is_an_error(build_tiny, make_batch):
    model = build_tiny()
    inputs, _ = make_batch(batch_size=1, size=(64, 96))
    budget = needed(model, inputs) // 2
    with pytest.raises(ValueError, match='too little') as error:
        plan(model, inputs, memory_budget=budget)
    message = str(error.value)
    assert message.startswith(
        f'model.test_cfg.memory_budget={budget} ({budget / 1e6:.3g} MB) is '
        'too little for scale 2 of an image of 64 x 96: '
    )
    assert "set model.test_cfg.over_budget='slide'" in message
    (enough,) = re.findall(r'raise it to (\d+) or more', message)
    _, peak = logits_and_peak(model, inputs, memory_budget=int(enough))
    assert budget < peak <= int(enough)


@pytest.mark.parametrize(
    'name', ['MultiScaleAverageHead', 'AttentionToScaleHead']
)
def test_other_heads(name, tiny_model_cfg, make_batch):
    cfg = tiny_model_cfg(train_scales=SCALES)
    seg_head = cfg['decode_head']['seg_head']
    cfg['decode_head'] = dict(type=name, seg_head=seg_head)
    model = MODELS.build(ConfigDict(cfg))
    inputs, _ = make_batch(batch_size=3, size=(64, 96))
    _, peak = logits_and_peak(model, inputs)
    enough = needed(model, inputs)
    assert peak <= enough < 1.03 * peak
    one = needed(model, inputs[:1])
    assert plan(model, inputs, memory_budget=enough - 1).batch == 1
    with pytest.raises(ValueError, match=r'blend all scales .*classes_only'):
        plan(model, inputs[:1], memory_budget=one - 1)


def test_windows_where_a_scale_does_not_fit(build_lively, make_batch):
    model = build_lively()
    inputs, _ = make_batch(batch_size=1, size=(128, 192))
    exact, peak = logits_and_peak(model, inputs)
    for share in (0.8, 0.6):
        budget = int(share * peak)
        cfg = dict(memory_budget=budget, over_budget='slide')
        found = plan(model, inputs, **cfg)
        assert found.windows[0] is not None
        logits, taken = logits_and_peak(model, inputs, **cfg)
        assert taken <= found.peak <= budget
        difference = (logits - exact).abs()
        assert difference.max() > 0
        assert difference.mean() < 0.2 * exact.abs().mean()
        same = logits.argmax(dim=1) == exact.argmax(dim=1)
        assert same.float().mean() > 0.9


def test_windows_are_named_once(build_lively, make_batch, monkeypatch):
    said = []
    monkeypatch.setattr(
        memory_budget, 'print_log', lambda text, **_: said.append(text)
    )
    model = build_lively()
    inputs, _ = make_batch(batch_size=1, size=(128, 192))
    cfg = dict(memory_budget=needed(model, inputs) // 2, over_budget='slide')
    for _ in range(2):
        with_cfg(model, **cfg).predict(inputs)
    (text,) = said
    assert text.startswith('approximate: model.test_cfg.memory_budget')
    assert 'scale 2 of images of 128 x 192' in text


def test_even_the_smallest_windows_may_not_fit(build_tiny, make_batch):
    model = build_tiny()
    inputs, _ = make_batch(batch_size=1, size=(128, 192))
    message = r'scale 2 .* even in windows of 64 x 64: .* test at lower scales'
    with pytest.raises(ValueError, match=message):
        plan(model, inputs, memory_budget=10**5, over_budget='slide')


def test_slide_mode_counts_the_logits_of_the_image(build_tiny, make_batch):
    model = build_tiny()
    inputs, _ = make_batch(batch_size=1, size=(64, 256))
    slide = dict(mode='slide', crop_size=(64, 64), stride=(64, 64))
    with torch.no_grad():
        expected = with_cfg(model, **slide).inference(inputs, [META])
        with_cfg(model, **slide, memory_budget=LARGE)
        found = model.inference(inputs, [META])
    assert torch.equal(found, expected)
    (call,) = memory_budget._plans[model]
    assert call.size == (64, 64)
    assert call.reserved == 5 * 64 * 256 * 4
    free = needed(model, inputs[..., :64], **slide)
    assert memory_budget._plans[model][call].peak == free + call.reserved


def test_a_model_that_meta_tensors_cannot_run(build_tiny, make_batch):
    model = build_tiny()
    model.backbone.register_forward_pre_hook(
        lambda _, args: (args[0] * float(args[0].max()),)
    )
    inputs, _ = make_batch(batch_size=1)
    with pytest.raises(RuntimeError, match=r'cannot be foretold.*leave out'):
        plan(model, inputs, memory_budget=LARGE)
    assert {p.device.type for p in model.parameters()} == {'cpu'}


def test_nothing_of_the_model_is_changed(build_tiny, make_batch):
    model = build_tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    inputs, _ = make_batch()
    needed(model, inputs)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not model.backbone._forward_pre_hooks
