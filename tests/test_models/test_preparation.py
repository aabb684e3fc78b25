"""Models made ready for inference, and norm layers folded into others."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from test_models.cases import AUX, FCN, with_cfg
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.models import preparation, prepare_for_inference
from hmsa_mmseg.models.folding import FoldedNorm, fold_batch_norm

OPTIONS = [
    dict(),
    dict(channels_last=False),
    dict(fold_bn=False),
    pytest.param(
        dict(compile=dict(backend='aot_eager')),
        marks=pytest.mark.needs_torch('compile_module'),
    ),
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
    torch._dynamo.reset()  # of the graphs of other tests
    model = build_lively().to(device).double()
    prepared = copy.deepcopy(model)
    assert prepare_for_inference(prepared, **options) is prepared
    # Several sizes, and each of them again.
    for size in ((64, 96), (47, 61), (64, 96)):
        inputs = make_batch(size=size)[0].to(device).double()
        torch.testing.assert_close(
            logits(prepared, inputs),
            logits(model, inputs),
            rtol=1e-9,
            atol=1e-9,
        )
    assert bool(norms(prepared)) == (options.get('fold_bn') is False)
    # Half precision and windows find the prepared layers.
    windows = dict(mode='slide', crop_size=(64, 64), stride=(64, 32))
    for cfg in (dict(dtype='bfloat16'), windows):
        with torch.no_grad():
            found, expected = (
                with_cfg(one.float(), **cfg).inference(
                    inputs.float(), [dict(ori_shape=(64, 96))] * 2
                )
                for one in (prepared, model)
            )
        difference = (found - expected).abs().max()
        assert difference < 0.05 * expected.abs().max()
    weight = prepared.backbone.layer1[0].conv1.weight
    is_last = weight.is_contiguous(memory_format=torch.channels_last)
    assert is_last == options.get('channels_last', True)


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


def test_bad_options_and_models(build_lively, monkeypatch):
    model = build_lively()
    with pytest.raises(ValueError, match=r"compile must be .* got 'inductor'"):
        prepare_for_inference(model, compile='inductor')
    with pytest.raises(TypeError, match='cuda_graphs'):
        prepare_for_inference(model, cuda_graphs=True)
    with pytest.raises(ValueError, match='got one in training mode'):
        prepare_for_inference(model.train())
    with pytest.raises(TypeError, match=r'of mmseg.*; got ResNet'):
        prepare_for_inference(model.backbone)
    monkeypatch.setattr(preparation, 'torch_has', lambda feature: False)
    with pytest.raises(ValueError, match=r'compile=True needs torch'):
        prepare_for_inference(model.eval(), compile=True)
    assert norms(model) != []


# ----------------------------------------------------------------- folding


def randomized(model):
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            if module.track_running_stats:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def fold(model, channels=4):
    """Fold; check that nothing but rounding changes; return the names."""
    x = torch.randn(2, channels, 9, 11, dtype=torch.float64)
    model = randomized(model).double()
    folded = copy.deepcopy(model)
    names = fold_batch_norm(folded, lambda: folded(x))
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-10)
    return names, folded


def conv(*args, **kwargs):
    return nn.Conv2d(4, 4, *(args or (3,)), padding=1, **kwargs)


@pytest.mark.parametrize(
    ('bias', 'affine', 'groups'),
    [(True, True, 1), (False, True, 4), (True, False, 4)],
)
def test_pair(bias, affine, groups):
    names, folded = fold(
        nn.Sequential(
            conv(bias=bias, groups=groups),
            nn.BatchNorm2d(4, affine=affine, eps=0.1),
            nn.ReLU(inplace=True),
            conv(bias=bias),
            nn.SyncBatchNorm(4, affine=affine),
        )
    )
    assert names == [('0', '1'), ('3', '4')]
    assert isinstance(folded[1], FoldedNorm)
    assert list(folded.state_dict()) == [
        f'{i}.{name}' for i in '03' for name in ('weight', 'bias')
    ]


def test_conv_module():
    kwargs = dict(norm_cfg=dict(type='BN'), padding=1)
    names, folded = fold(
        nn.Sequential(
            ConvModule(4, 4, 3, **kwargs),
            ConvModule(4, 4, 3, order=('norm', 'conv', 'act'), **kwargs),
            ConvModule(4, 4, 3, order=('conv', 'act', 'norm'), **kwargs),
            ConvModule(4, 4, 3, conv_cfg=dict(type='Conv'), **kwargs),
        )
    )
    assert names == [('0.conv', '0.bn'), ('3.conv', '3.bn')]
    assert isinstance(folded[0].norm, nn.Identity)
    assert folded[0].conv.bias is not None
    assert isinstance(folded[1].norm, nn.BatchNorm2d)


class _Model(nn.Module):
    """Layers by name, and any way to call them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.call = forward

    def forward(self, x):
        return self.call(self, x)


def two(**kwargs):
    return dict(a=conv(), norm=nn.BatchNorm2d(4), b=conv(), **kwargs)


@pytest.mark.parametrize(
    ('forward', 'layers'),
    [
        # Something lies between.
        (lambda m, x: m.norm(m.a(x).relu()), two()),
        (lambda m, x: m.norm(m.a(x).relu_()), two()),
        (lambda m, x: m.norm(m.a(x) + 1), two()),
        (lambda m, x: m.b(m.norm(x)), two()),
        # The convolution's result is read by others too.
        (lambda m, x: (lambda y: m.norm(y) + y)(m.a(x)), two()),
        (lambda m, x: (lambda y: m.b(y) + m.norm(y))(m.a(x)), two()),
        # One of two is used in several ways.
        (lambda m, x: m.norm(m.a(x)) + m.norm(m.b(x)), two()),
        (lambda m, x: m.norm(m.a(x)) + m.a(x), two()),
        (lambda m, x: m.norm(m.a(x)) + m.norm(x), two()),
        (
            lambda m, x: m.norm(m.a(x)) + m.other(m.a(x)),
            two(other=nn.BatchNorm2d(4)),
        ),
        # They do not run.
        (lambda m, x: m.b(x), two()),
    ],
)
def test_layers_that_do_not_go_together_stay(forward, layers):
    names, folded = fold(_Model(forward, **layers))
    assert names == []
    assert not folded.a._forward_hooks


def test_order_of_registration_does_not_matter():
    """mmcv's `fuse_conv_bn` would fold `norm` into `other`."""
    names, _ = fold(
        _Model(
            lambda m, x: m.norm(m.conv(m.norm2(m.other(x)))),
            conv=conv(),
            other=conv(),
            norm=nn.BatchNorm2d(4),
            norm2=nn.BatchNorm2d(4),
        )
    )
    assert sorted(names) == [('conv', 'norm'), ('other', 'norm2')]


def test_pairs_that_are_called_twice_are_folded_once():
    shared = nn.Sequential(conv(), nn.BatchNorm2d(4))
    names, folded = fold(nn.Sequential(shared, nn.ReLU(), shared))
    assert len(names) == 1
    assert isinstance(folded[2][1], FoldedNorm)


class _Scaled(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight / 2, self.bias)


class _NormAndActivation(nn.BatchNorm2d):
    """As timm's ``BatchNormAct2d``."""

    def forward(self, x):
        return super().forward(x).relu()


def hooked(layer):
    layer.register_forward_hook(lambda module, args, result: 2 * result)
    return layer


@pytest.mark.parametrize(
    ('first', 'norm'),
    [
        (conv(), _NormAndActivation(4)),
        (conv(), hooked(nn.BatchNorm2d(4))),
        (hooked(conv()), nn.BatchNorm2d(4)),
        (conv(), nn.GroupNorm(2, 4)),
        (conv(), nn.InstanceNorm2d(4)),
        (conv(), nn.BatchNorm2d(4, track_running_stats=False)),
        (_Scaled(4, 4, 3), nn.BatchNorm2d(4)),
        (nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)),
        (nn.utils.spectral_norm(conv()), nn.BatchNorm2d(4)),
    ],
)
def test_other_layers_stay(first, norm):
    names, folded = fold(nn.Sequential(conv(), first, norm))
    assert names == []
    assert type(folded[2]) is type(norm)


def test_efficientnet_of_timm():
    timm = pytest.importorskip('timm')
    model = timm.create_model('tf_efficientnet_lite0', features_only=True)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {type(norm).__name__ for norm in norms} == {'BatchNormAct2d'}
    names, folded = fold(model, channels=3)
    assert len(names) == len(norms) > 40
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    # One with padding as TensorFlow has it, and the activation after it.
    assert type(folded.conv_stem) is type(model.conv_stem) is not nn.Conv2d
    assert isinstance(folded.bn1[1], nn.ReLU6)


@pytest.mark.parametrize('kind', ['BatchNormAct2d', 'SyncBatchNormAct'])
def test_activations_of_timm_stay(kind):
    layers = pytest.importorskip('timm.layers')
    # With weights of its own, and what timm calls dropout, after it.
    norm = layers.BatchNormAct2d(
        4, act_layer=nn.PReLU, drop_layer=nn.Softplus, inplace=False
    )
    assert norm.act.weight.shape == (1,)
    norm.act.weight.data.fill_(-2)
    if kind == 'SyncBatchNormAct':
        norm = layers.convert_sync_batchnorm(norm)
    assert type(norm).__name__ == kind
    names, folded = fold(nn.Sequential(conv(), norm, conv()))
    assert names == [('0', '1')]
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    again = copy.deepcopy(folded)
    again.load_state_dict(folded.state_dict())
    assert torch.equal(again(x), folded(x))
    with pytest.raises(RuntimeError, match='cannot be trained'):
        folded.train()


@pytest.mark.fault(
    'a model with folded batch norm is trained or given weights',
    'refused',
)
def test_a_folded_model_is_not_trained_and_takes_no_other_weights():
    model = randomized(nn.Sequential(conv(), nn.BatchNorm2d(4)))
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(1, 4, 5, 5)
    fold_batch_norm(model, lambda: model(x))
    expected = model(x)
    with pytest.raises(RuntimeError, match='fold_bn=True cannot be trained'):
        model.train()
    model.eval()
    for strict in (True, False):
        with pytest.raises(
            RuntimeError, match=r'1.*: a checkpoint with batch'
        ):
            model.load_state_dict(state, strict=strict)
    fresh = nn.Sequential(conv(), nn.BatchNorm2d(4)).eval()
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(x), expected)
    again = copy.deepcopy(model)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))
