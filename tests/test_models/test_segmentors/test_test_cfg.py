"""The switches of `model.test_cfg`: what they change, and what not."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.evaluation.metrics import citys_metric
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from hmsa_mmseg.analysis.live_bytes import peak_live_bytes
from hmsa_mmseg.models.segmentors.slide import slide_windows

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


def with_cfg(model, **test_cfg):
    """Set `test_cfg`, as a command line or a user would."""
    model.test_cfg = ConfigDict(
        dict(dict(mode='whole', scales=SCALES), **test_cfg)
    )
    return model.eval()


def sample(size, **meta):
    shape = dict(ori_shape=size, img_shape=size, pad_shape=size)
    return SegDataSample(metainfo={**shape, **meta})


def mixed_samples(size):
    """Samples that were padded and flipped, for inputs of one size."""
    height, width = size
    cut = (height - 5, width - 3)
    return [
        sample(cut, padding_size=[1, 2, 0, 5]),
        sample(cut, padding_size=[3, 0, 5, 0]).clone(),
        sample(size, flip=True, flip_direction='horizontal'),
        sample(
            cut,
            img_padding_size=[0, 3, 2, 3],
            padding_size=[9, 9, 9, 9],
            flip=True,
            flip_direction='vertical',
        ),
    ]


@torch.no_grad()
def predict(model, inputs, samples):
    return model.predict(inputs, copy.deepcopy(samples))


@pytest.mark.parametrize('size', [(64, 96), (47, 61)])
@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('seg_head', [None, BINARY])
def test_classes_only_gives_the_same_classes(
    seg_head, fast, size, build_lively, make_batch
):
    model = build_lively(seg_head=seg_head, decode_head=dict(fast=fast))
    inputs, _ = make_batch(batch_size=4, size=size)
    for samples in (None, mixed_samples(size)):
        expected = predict(with_cfg(model), inputs, samples)
        found = predict(with_cfg(model, classes_only=True), inputs, samples)
        assert len(found) == len(expected) == 4
        for one, other in zip(found, expected):
            assert 'seg_logits' in other
            assert 'seg_logits' not in one
            assert one.pred_sem_seg.data.dtype == torch.int16
            assert one.pred_sem_seg.data.unique().numel() > 1
            same = one.pred_sem_seg.data == other.pred_sem_seg.data
            # The fused way may round to the other side of an edge.
            assert same.float().mean() > 0.999
            assert one.pred_sem_seg.shape == other.pred_sem_seg.shape


@pytest.mark.parametrize(
    'cfg', [dict(), dict(mode='slide', crop_size=(32, 32), stride=(20, 24))]
)
def test_classes_only_of_resized_images(cfg, build_lively, make_batch):
    """Their logits are resized first, of each image on its own."""
    model = build_lively()
    inputs, _ = make_batch(size=(40, 64))
    samples = [sample((40, 64)), sample((77, 121), padding_size=[0, 3, 0, 2])]
    expected = predict(with_cfg(model, **cfg), inputs, samples)
    found = predict(with_cfg(model, classes_only=True, **cfg), inputs, samples)
    for one, other in zip(found, expected):
        assert 'seg_logits' not in one
        assert torch.equal(
            one.pred_sem_seg.data.long(), other.pred_sem_seg.data
        )


@pytest.mark.needs_torch('freed_storages')
def test_classes_only_makes_no_logits(build_lively, make_batch):
    seg_head = dict(
        type='FCNHead',
        in_channels=8,
        in_index=0,
        channels=4,
        num_convs=0,
        concat_input=False,
        num_classes=100,
    )
    seg_head.update(in_channels=16, in_index=1, channels=16)
    model = build_lively(seg_head=seg_head)
    inputs, samples = make_batch(batch_size=1, size=(256, 512))
    logits = 100 * 256 * 512 * 4
    full = peak_live_bytes(lambda: predict(with_cfg(model), inputs, samples))
    lean = peak_live_bytes(
        lambda: predict(with_cfg(model, classes_only=True), inputs, samples)
    )
    assert full > logits
    assert lean < 0.5 * logits


def test_unknown_flips_are_refused(build_lively, make_batch):
    model = with_cfg(build_lively(), classes_only=True)
    inputs, _ = make_batch(batch_size=1)
    samples = [sample((64, 64), flip=True, flip_direction='diagonal')]
    with pytest.raises(ValueError, match=r"horizontal or .* got 'diagonal'"):
        predict(model, inputs, samples)


def test_mmseg_takes_the_classes(build_lively, make_batch, monkeypatch):
    """Metrics and pictures are those of the classes that mmseg makes."""
    model = build_lively()
    inputs, samples = make_batch()
    for one in samples:
        # An index that no uint8 holds, and one that a cast must not move.
        one.gt_sem_seg.data[:, 5:9] = -1
        one.set_metainfo(dict(img_path='image.png'))
    areas, ids, pictures = [], [], []
    labels = {-1: 300, 255: 0, **{i: i + 7 for i in range(5)}}
    monkeypatch.setattr(
        citys_metric,
        'CSLabels',
        SimpleNamespace(
            trainId2label={
                key: SimpleNamespace(id=-1 if key == -1 else value)
                for key, value in labels.items()
            }
        ),
    )
    visualizer = SegLocalVisualizer(vis_backends=[])
    for classes_only in (False, True):
        with_cfg(model, classes_only=classes_only)
        results = predict(model, inputs, samples)
        metric = IoUMetric(ignore_index=-1)
        metric.dataset_meta = dict(classes=list('abcde'))
        metric.process({}, [result.to_dict() for result in results])
        areas.append(metric.results)
        ids.append(
            citys_metric.CityscapesMetric._convert_to_label_id(
                results[0].pred_sem_seg.data[0].numpy()
            )
        )
        pictures.append(
            visualizer._draw_sem_seg(
                np.zeros((64, 64, 3), np.uint8),
                results[0].pred_sem_seg,
                list('abcde'),
                [[9 * i + 9] * 3 for i in range(5)],
            )
        )
    for one, other in zip(*areas):
        for area, same in zip(one, other):
            assert torch.equal(area, same)
    np.testing.assert_array_equal(*ids)
    np.testing.assert_array_equal(*pictures)
    assert np.ptp(pictures[0]) > 0


@pytest.mark.parametrize('seg_head', [None, BINARY])
def test_results_equal_mmsegs(seg_head, build_lively, make_batch):
    """With logits nothing is changed but a copy that mmseg makes."""
    model = with_cfg(build_lively(seg_head=seg_head))
    size = (40, 64)
    inputs, _ = make_batch(batch_size=5, size=size)
    samples = [*mixed_samples(size), sample((77, 121))]
    with torch.no_grad():
        logits = model.encode_decode(inputs)
    for given in (None, samples):
        found, expected = (
            postprocess(model, logits.clone(), copy.deepcopy(given))
            for postprocess in (
                type(model).postprocess_result,
                EncoderDecoder.postprocess_result,
            )
        )
        for one, other in zip(found, expected):
            for key in ('seg_logits', 'pred_sem_seg'):
                mine, theirs = one.get(key).data, other.get(key).data
                assert mine.dtype == theirs.dtype
                assert mine.shape == theirs.shape
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
            # Saved, a view would take the memory of the whole batch along.
            held = one.seg_logits.data.untyped_storage().nbytes()
            assert held == one.seg_logits.data.numel() * 4


@pytest.mark.parametrize(
    'dtype',
    [
        'bfloat16',
        pytest.param(
            'float16', marks=pytest.mark.needs_torch('float16_on_cpu')
        ),
    ],
)
def test_dtype_is_that_of_the_network_and_not_of_the_blend(
    dtype, build_lively, make_batch
):
    model = with_cfg(build_lively())
    inputs, samples = make_batch()
    exact = predict(model, inputs, samples)
    seen = []
    for module in (model.backbone.conv1, model.decode_head.scale_attn.conv0):
        module.register_forward_hook(
            lambda _, args, output: seen.append(output.dtype)
        )
    with_cfg(model, dtype=dtype)
    found = predict(model, inputs, samples)
    assert set(seen) == {getattr(torch, dtype)}
    for one, other in zip(found, exact):
        mine, theirs = one.seg_logits.data, other.seg_logits.data
        assert mine.dtype == torch.float32
        difference = (mine - theirs).abs().max()
        assert 0 < difference < 0.05 * theirs.abs().max()
        # Rounded to half precision it would be one of few values.
        assert not torch.equal(mine.to(getattr(torch, dtype)).float(), mine)
    seen.clear()
    # Stronger than the type of a loop (`val_cfg=dict(fp16=True)`).
    with torch.autocast('cpu', dtype=torch.bfloat16):
        predict(model, inputs, samples)
    assert set(seen) == {getattr(torch, dtype)}
    seen.clear()
    model.train().loss(inputs, samples)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize('size', [(64, 96), (41, 67), (20, 90)])
@pytest.mark.parametrize(
    ('crop_size', 'stride'),
    [((32, 32), (20, 24)), ((32, 48), (32, 48)), ((99, 99), (7, 50))],
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


def test_windows_are_mmsegs():
    assert slide_windows(100, 40, 30) == [
        slice(0, 40),
        slice(30, 70),
        slice(60, 100),
    ]
    assert slide_windows(100, 48, 30)[-2:] == [slice(30, 78), slice(52, 100)]
    assert slide_windows(20, 48, 30) == [slice(0, 20)]


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(scale=1), r"test_cfg has no setting \['scale'\]; expected some"),
        (dict(mode='tiles'), r"test_cfg\.mode must be .*'slide'.*'tiles'"),
        (dict(mode=None), r"test_cfg\.mode must be .*'slide'.*got None"),
        (dict(dtype='half'), r"test_cfg\.dtype must be .*'float16'.*'half'"),
        (dict(classes_only=1), r'classes_only must be True or False, got 1'),
        (dict(mode='slide'), r'test_cfg\.crop_size must be .* got None'),
        (
            dict(mode='slide', crop_size=(64, 64), stride=(64, 65)),
            r'stride=\(64, 65\) leaves out .*_size=\(64, 64\)',
        ),
        (
            dict(mode='slide', crop_size=(64, 64), stride=(64, 0)),
            r'stride must be .* 1 or more; got \(64, 0\)',
        ),
        # Settings of version 0.1, with what to take instead.
        (dict(memory_budget=10**9), r"memory_budget=1000000000 .*mode='slide"),
        (dict(over_budget='slide'), r"over_budget='slide' .*mode='slide'"),
    ],
)
def test_bad_settings_are_refused(cfg, message, tiny_model_cfg, build_lively):
    cfg = dict(dict(mode='whole', scales=SCALES), **cfg)
    with pytest.raises(ValueError, match=message):
        MODELS.build(tiny_model_cfg(test_cfg=cfg))
    model = build_lively().eval()
    with pytest.raises(ValueError, match=message):
        model.test_cfg = ConfigDict(cfg)
    model = build_lively().eval()
    model.test_cfg.update(cfg)
    with pytest.raises(ValueError, match=message):
        model.predict(torch.zeros(1, 3, 32, 32))


WHOLE = dict(mode='whole', scales=[0.5, 1.0])
SLIDE = dict(mode='slide', scales=[1.0], crop_size=[32, 32], stride=[20, 24])


@pytest.mark.parametrize('cfg', [WHOLE, SLIDE], ids=['whole', 'slide'])
def test_a_plain_dict_may_be_assigned(cfg, build_lively, make_batch):
    model = build_lively()
    inputs, samples = make_batch(size=(40, 64))
    model.test_cfg = dict(cfg)
    assert model.test_cfg.mode == cfg['mode']
    found = predict(model, inputs, samples)
    expected = predict(with_cfg(model, **cfg), inputs, samples)
    default = predict(with_cfg(model), inputs, samples)
    for one, other, another in zip(found, expected, default):
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)
        assert not torch.equal(one.seg_logits.data, another.seg_logits.data)


def test_settings_are_read_when_assigned(build_lively):
    model = build_lively()
    assert model.inference_settings.scales == SCALES
    model.test_cfg = dict(WHOLE, dtype='bfloat16')
    settings = model.inference_settings
    assert settings.scales == (0.5, 1.0)
    assert settings.dtype is torch.bfloat16
    with pytest.raises(ValueError, match=r'test_cfg\.mode'):
        model.test_cfg = dict(WHOLE, mode='tiles')
    # What is refused changes nothing.
    assert model.test_cfg.mode == 'whole'
    assert model.inference_settings is settings
    model.test_cfg = None
    with pytest.raises(ValueError, match=r'model\.test_cfg\.scales is mis'):
        model.encode_decode(torch.zeros(1, 3, 32, 32))
    model.train_cfg = dict(scales=(1.0, 0.25), stats_scale=0.25)
    assert model.training_settings.scales == (0.25, 1.0)
    assert model.decode_head.stats_scale == 0.25
    with pytest.raises(ValueError, match=r'train_cfg\.scales'):
        model.train_cfg = dict(scales=(1.0,))
    assert model.training_settings.scales == (0.25, 1.0)
    with pytest.raises(ValueError, match=r'train_cfg must be a dict .* got 3'):
        model.train_cfg = 3


def test_settings_are_read_when_changed_in_place(build_lively, make_batch):
    model = with_cfg(build_lively())
    inputs, samples = make_batch(size=(40, 64))
    model.test_cfg.classes_only = True
    model.test_cfg['scales'] = [1.0]
    found = predict(model, inputs, samples)
    assert model.inference_settings.scales == (1.0,)
    assert model.inference_settings.classes_only
    expected = predict(with_cfg(model, scales=(1.0,)), inputs, samples)
    for one, other in zip(found, expected):
        assert 'seg_logits' not in one
        assert torch.equal(
            one.pred_sem_seg.data.long(), other.pred_sem_seg.data
        )
    # Where the caller has kept the config.
    cfg = ConfigDict(WHOLE)
    model.test_cfg = cfg
    cfg.scales = [0.25]
    assert model.inference_settings.scales == (0.25,)
    model.train_cfg.scales = [0.25, 0.5]
    assert model.training_settings.scales == (0.25, 0.5)
    model.train()
    norms = [x for x in model.backbone.modules() if hasattr(x, 'momentum')]
    assert norms
    assert all(norm.training for norm in norms)
    model.train_cfg.norm_eval = True
    assert model.training_settings.norm_eval
    assert not any(norm.training for norm in norms)
    model.eval()
    # Within a value, as scales that are a list.
    model.test_cfg = dict(WHOLE)
    model.test_cfg.scales.append(2.0)
    assert model.inference_settings.scales == SCALES
    model.test_cfg.scales.append('x')
    with pytest.raises(ValueError, match=r'test_cfg\.scales .* got .x'):
        predict(model, inputs, samples)


def test_settings_are_those_of_a_copy(build_lively):
    model = build_lively()
    other = copy.deepcopy(model)
    other.test_cfg.scales = (1.0,)
    assert other.inference_settings.scales == (1.0,)
    assert model.inference_settings.scales == SCALES


def test_settings_of_mmseg_stay_valid(tiny_model_cfg):
    cfg = dict(mode='whole', scales=SCALES, crop_size=None, stride=None)
    model = MODELS.build(tiny_model_cfg(test_cfg=cfg))
    assert model.test_cfg == cfg


def test_windows_of_slide_may_stay_in_another_mode(build_lively, make_batch):
    inputs, samples = make_batch()
    windows = dict(crop_size=[32, 32], stride=[0, 'x'])
    (expected, *_) = with_cfg(build_lively()).predict(inputs, samples)
    model = with_cfg(build_lively(), **windows)
    (found, *_) = model.predict(inputs, samples)
    assert found.seg_logits.data.shape == expected.seg_logits.data.shape


def test_a_mode_is_needed(tiny_model_cfg):
    cfg = tiny_model_cfg(test_cfg=dict(scales=SCALES))
    with pytest.raises(ValueError, match=r'test_cfg\.mode must be one of'):
        MODELS.build(cfg)


def test_labels_stay_with_the_results(build_lively, make_batch):
    model = with_cfg(build_lively(), classes_only=True)
    inputs, samples = make_batch()
    results = predict(model, inputs, samples)
    for result, given in zip(results, samples):
        assert isinstance(result.gt_sem_seg, PixelData)
        assert torch.equal(result.gt_sem_seg.data, given.gt_sem_seg.data)
