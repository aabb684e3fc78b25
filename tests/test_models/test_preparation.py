"""Models that are made ready for inference."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from test_models.cases import AUX, FCN, with_cfg
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.models import preparation, prepare_for_inference

OPTIONS = [
    dict(),
    dict(channels_last=False),
    dict(fold_bn=False),
    dict(compile=dict(backend='eager')),
]
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='needs a GPU'
)
each_device = pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=needs_gpu)]
)


def logits(model, inputs):
    with torch.no_grad():
        return model.encode_decode(inputs)


def norms(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


@each_device
@pytest.mark.parametrize('options', OPTIONS)
def test_predictions_are_the_same(options, device, build_lively, make_batch):
    model = build_lively().to(device)
    prepared = copy.deepcopy(model)
    assert prepare_for_inference(prepared, **options) is prepared
    # Several sizes, and each of them again.
    for size in ((64, 96), (47, 61), (64, 96)):
        inputs = make_batch(size=size)[0].to(device)
        torch.testing.assert_close(
            logits(prepared, inputs),
            logits(model, inputs),
            rtol=0,
            atol=1e-4 if device == 'cuda' else 1e-5,
        )
    assert bool(norms(prepared)) == (options.get('fold_bn') is False)
    # Half precision and windows find the prepared layers.
    windows = dict(mode='slide', crop_size=(64, 64), stride=(64, 32))
    for cfg in (dict(dtype='bfloat16'), windows):
        with torch.no_grad():
            found, expected = (
                with_cfg(one, **cfg).inference(
                    inputs, [dict(ori_shape=(64, 96))] * 2
                )
                for one in (prepared, model)
            )
        difference = (found - expected).abs().max()
        assert difference < 0.05 * expected.abs().max()
    weight = prepared.backbone.layer1[0].conv1.weight
    is_last = weight.is_contiguous(memory_format=torch.channels_last)
    assert is_last == options.get('channels_last', True)


def test_in_float64_to_the_last_digits(build_lively, make_batch):
    model = build_lively().double()
    inputs = make_batch(size=(47, 61))[0].double()
    expected = logits(model, inputs)
    found = logits(prepare_for_inference(model), inputs)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def test_every_norm_layer_is_folded_at_any_number_of_scales(build_lively):
    model = build_lively()
    assert len(norms(model)) > 10
    assert norms(prepare_for_inference(model)) == []
    model = build_lively(test_cfg=dict(mode='whole', scales=(1.0,)))
    prepare_for_inference(model)
    # Attention did not run, so nobody knows what its layers do.
    assert norms(model) == norms(model.decode_head.scale_attn) != []


def test_auxiliary_heads_stay(build_lively, monkeypatch):
    model = build_lively(auxiliary_head=AUX)
    model.auxiliary_head.add_module('other', torch.nn.GroupNorm(2, 8))
    said = []
    monkeypatch.setattr(
        preparation, 'print_log', lambda text, **kwargs: said.append(text)
    )
    prepare_for_inference(model)
    assert norms(model) == norms(model.auxiliary_head) != []
    count = len(norms(model))
    prepare_for_inference(build_lively())
    left = [text.partition('left as they are: ')[2] for text in said]
    assert left == [f'{count} BatchNorm2d, 1 GroupNorm', 'none']


def test_settings_are_as_before(build_lively, make_batch):
    model = with_cfg(build_lively(), dtype='bfloat16', classes_only=True)
    cfg = copy.deepcopy(model.test_cfg)
    for fast in (True, False):
        model.decode_head.fast = fast
        prepare_for_inference(model)
        assert model.decode_head.fast is fast
    assert model.test_cfg == cfg
    (result,) = model.predict(make_batch(batch_size=1)[0])
    assert result.pred_sem_seg.data.dtype == torch.int16


@pytest.mark.needs_torch('compile_module')
def test_compile_is_of_fixed_sizes(build_lively, monkeypatch):
    model = build_lively()
    keys = list(model.state_dict())
    seen = []
    monkeypatch.setattr(
        model.backbone, 'compile', lambda **options: seen.append(options)
    )
    prepare_for_inference(model, fold_bn=False, compile=True)
    assert list(model.state_dict()) == keys
    prepare_for_inference(model, compile=dict(mode='max-autotune'))
    assert seen == [
        dict(dynamic=False),
        dict(dynamic=False, mode='max-autotune'),
    ]


def test_a_plain_encoder_decoder(tiny_model_cfg, make_batch):
    cfg = dict(
        type='EncoderDecoder',
        backbone=tiny_model_cfg()['backbone'],
        decode_head=FCN,
        test_cfg=dict(mode='whole'),
    )
    model = MODELS.build(ConfigDict(cfg)).eval()
    inputs, samples = make_batch()
    metas = [sample.metainfo for sample in samples]
    with torch.no_grad():
        expected = model.encode_decode(inputs, metas)
        found = prepare_for_inference(model).encode_decode(inputs, metas)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert norms(model) == []


def test_bad_options_and_models(build_lively):
    model = build_lively()
    with pytest.raises(ValueError, match=r"compile must be .* got 'inductor'"):
        prepare_for_inference(model, compile='inductor')
    with pytest.raises(TypeError, match='cuda_graphs'):
        prepare_for_inference(model, cuda_graphs=True)
    with pytest.raises(ValueError, match='got one in training mode'):
        prepare_for_inference(model.train())
    with pytest.raises(TypeError, match=r'of mmseg.*; got ResNet'):
        prepare_for_inference(model.backbone)
    assert norms(model) != []
