"""Models that are made ready for inference."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.models import preparation, prepare_for_inference

SCALES = (0.5, 1.0, 2.0)
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
    aux = dict(
        type='FCNHead', in_channels=8, in_index=0, channels=8, num_classes=5
    )
    aux.update(norm_cfg=dict(type='BN'), num_convs=1)
    model = build_lively(auxiliary_head=aux)
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
    model = build_lively(
        test_cfg=dict(
            mode='whole', scales=SCALES, dtype='bfloat16', classes_only=True
        )
    )
    cfg = copy.deepcopy(model.test_cfg)
    for fast in (True, False):
        model.decode_head.fast = fast
        prepare_for_inference(model)
        assert model.decode_head.fast is fast
    assert model.test_cfg == cfg
    (result,) = model.predict(make_batch(batch_size=1)[0])
    assert result.pred_sem_seg.data.dtype == torch.int16


@each_device
@pytest.mark.parametrize('options', OPTIONS)
def test_with_other_settings(options, device, build_lively, make_batch):
    """Half precision and windows find the prepared layers."""
    model = build_lively().to(device)
    inputs = make_batch(size=(64, 96))[0].to(device)
    metas = [dict(ori_shape=(64, 96))] * 2
    windows = dict(mode='slide', crop_size=(64, 64), stride=(64, 32))
    prepared = prepare_for_inference(copy.deepcopy(model), **options)
    for cfg in (dict(mode='whole', dtype='bfloat16'), windows):
        found = []
        for one in (prepared, model):
            one.test_cfg = ConfigDict(scales=SCALES, **cfg)
            with torch.no_grad():
                found.append(one.inference(inputs, metas))
        difference = (found[0] - found[1]).abs().max()
        assert difference < 0.05 * found[1].abs().max()


@pytest.mark.needs_torch('compile_module')
def test_compile_is_of_fixed_sizes(build_lively, monkeypatch):
    model = build_lively()
    seen = []
    monkeypatch.setattr(
        model.backbone, 'compile', lambda **options: seen.append(options)
    )
    prepare_for_inference(model, compile=True)
    prepare_for_inference(model, compile=dict(mode='max-autotune'))
    assert seen == [
        dict(dynamic=False),
        dict(dynamic=False, mode='max-autotune'),
    ]


@pytest.mark.needs_torch('compile_module')
def test_state_dict_of_compiled_models_keeps_its_keys(build_lively):
    model = build_lively()
    keys = list(model.state_dict())
    prepare_for_inference(model, fold_bn=False, compile=dict(backend='eager'))
    assert list(model.state_dict()) == keys


def test_a_plain_encoder_decoder(tiny_model_cfg, make_batch):
    cfg = dict(
        type='EncoderDecoder',
        backbone=tiny_model_cfg()['backbone'],
        decode_head=tiny_model_cfg()['decode_head']['seg_head'],
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
