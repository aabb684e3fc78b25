"""Models that are made ready for inference."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.models import prepare_for_inference
from hmsa_mmseg.models.inference import preparation
from hmsa_mmseg.models.inference.cuda_graphs import GraphedForward

SCALES = (0.5, 1.0, 2.0)
OPTIONS = [
    dict(),
    dict(channels_last=False),
    dict(fold_bn=False),
    dict(compile=dict(backend='eager')),
    dict(cuda_graphs=True),
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
    """Half precision and a memory budget find the prepared layers."""
    model = build_lively().to(device)
    inputs = make_batch(size=(64, 96))[0].to(device)
    exact = logits(model, inputs)
    prepare_for_inference(model, **options)
    for cfg in (dict(dtype='bfloat16'), dict(memory_budget=1e12)):
        model.test_cfg = ConfigDict(mode='whole', scales=SCALES, **cfg)
        found = logits(model, inputs)
        difference = (found - exact).abs().max()
        assert difference < 0.05 * exact.abs().max()


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


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(compile='inductor'), "compile must be .* got 'inductor'"),
        (
            dict(compile=True, cuda_graphs=True),
            'cuda_graphs=True does not go with compile=True',
        ),
    ],
)
def test_bad_options(options, message, build_lively):
    model = build_lively()
    with pytest.raises(ValueError, match=message):
        prepare_for_inference(model, **options)
    assert norms(model) != []


def test_bad_models(build_lively):
    model = build_lively()
    with pytest.raises(ValueError, match='got one in training mode'):
        prepare_for_inference(model.train())
    with pytest.raises(TypeError, match=r'of mmseg.*; got ResNet'):
        prepare_for_inference(model.backbone)
    model.eval().test_cfg['memory_budget'] = 10**12
    with pytest.raises(ValueError, match=r'memory_budget=1000.* remove one'):
        prepare_for_inference(model, cuda_graphs=True)


def test_graphs_are_left_out_on_the_cpu_and_with_gradients():
    calls = []
    forward = GraphedForward(lambda x: calls.append(x) or (x + 1,))
    x = torch.zeros(2, 3)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert torch.equal(forward(x)[0], x + 1)
    assert len(calls) == 2
    assert forward.graphs == {}


def test_graphs_are_of_one_preparation(build_lively, make_batch):
    model = prepare_for_inference(
        build_lively(), fold_bn=False, cuda_graphs=True
    )
    inputs = make_batch()[0]
    expected = logits(model, inputs)
    # A graph can neither be copied nor pickled.
    model.backbone.forward.graphs['shape'] = (i for i in ())
    copied = copy.deepcopy(model)
    assert copied.backbone.forward.graphs == {}
    assert copied.backbone.forward.forward.__self__ is copied.backbone
    torch.testing.assert_close(logits(copied, inputs), expected)
    prepare_for_inference(model, cuda_graphs=True)
    assert model.backbone.forward.graphs == {}
    assert not isinstance(model.backbone.forward.forward, GraphedForward)
    torch.testing.assert_close(
        logits(model, inputs), expected, rtol=0, atol=1e-5
    )
    prepare_for_inference(model)
    assert 'forward' not in vars(model.backbone)


@needs_gpu
def test_cuda_graphs_record_each_shape_once():
    layer = torch.nn.Conv2d(3, 4, 3).cuda()
    calls = []
    forward = GraphedForward(
        lambda x: calls.append(x) or [layer(x)], max_graphs=2
    )
    with torch.no_grad():
        for side in (8, 9, 10, 8, 9, 10):
            x = torch.randn(1, 3, side, side, device='cuda')
            (found,) = forward(x)
            torch.testing.assert_close(found, layer(x))
    assert len(forward.graphs) == 2
    # Three rounds and the recording for two shapes; the third twice.
    assert len(calls) == 2 * 4 + 2


@needs_gpu
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_cuda_graphs_under_autocast(dtype):
    layer = torch.nn.Conv2d(3, 4, 3).cuda()
    forward = GraphedForward(layer)
    x = torch.randn(1, 3, 9, 9, device='cuda')
    with torch.no_grad():
        for _ in range(2):
            with torch.autocast('cuda', dtype=dtype):
                found, expected = forward(x), layer(x)
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(forward(x), layer(x))
    assert len(forward.graphs) == 2
