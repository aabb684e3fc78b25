"""What the benchmarks race against: transcription, authors, mmseg."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmarks import networks
from benchmarks.cases import Options, logits_difference
from benchmarks.measure import count_flops, peak_live_bytes
from oracles import authors
from oracles.literal_network import LiteralNetwork

FULL_SIZE = (1024, 2048)
# Counted with the authors' own program at FULL_SIZE, scales 0.5, 1 and 2.
AUTHORS_GFLOP, AUTHORS_PEAK = 16063.3, 9_166_690_304


@pytest.fixture(scope='module')
def small():
    """The small network, with lively weights."""
    return networks.build(networks.config_for('small'), fast=False)


# Not those whose features mmseg's and the authors' resizes see differently:
# the literal network and ours share the backbone.
@pytest.mark.parametrize(
    ('size', 'scales'),
    [
        ((61, 83), (0.5, 1.0, 2.0)),
        ((64, 96), (1.0,)),
        ((61, 83), (0.25, 0.75, 1.0, 1.5)),
    ],
)
@torch.no_grad()
def test_literal_network_is_ours(small, size, scales):
    x = networks.images(2, size)
    small.test_cfg.scales = scales
    expected = small.encode_decode(x)
    found = LiteralNetwork(small, scales).eval()(x)
    assert found['pred'].shape == (2, 19, *size)
    assert found.keys() == {
        'pred',
        *(f'{what}_{s}x' for s in scales for what in ('pred', 'attn')),
    }
    difference = logits_difference(found['pred'], expected)
    assert difference <= 1e-5
    assert expected.argmax(1).unique().numel() > 1


def test_literal_network_wants_ocrnet(small):
    class Head:
        seg_heads = [torch.nn.Identity()]

    class Model:
        decode_head = Head()

    with pytest.raises(TypeError, match='Identity'):
        LiteralNetwork(Model())


@torch.no_grad()
def test_literal_network_costs_what_the_authors_does():
    model = networks.build(networks.config_for('full'), 'meta', fast=False)
    network = LiteralNetwork(model)
    x = networks.images(1, FULL_SIZE, 'meta')
    gflop = count_flops(lambda: network(x)) / 1e9
    assert gflop == pytest.approx(AUTHORS_GFLOP, rel=1e-4)
    peak = peak_live_bytes(lambda: network(x))
    assert peak == pytest.approx(AUTHORS_PEAK, rel=1e-3)


@torch.no_grad()
def test_stock_has_our_weights(small):
    stock = networks.build_stock(networks.config_for('small'))
    assert type(stock).__name__ == 'CascadeEncoderDecoder'
    x = networks.images(1, (64, 96))
    small.test_cfg.scales = (1.0,)
    (found,) = stock.predict(x)
    expected = small.encode_decode(x)
    difference = logits_difference(found.seg_logits.data[None], expected)
    assert difference <= 1e-5


def test_weights_are_a_function_of_their_names():
    shapes = {'a.weight': torch.zeros(8, 4, 3, 3), 'b.weight': torch.zeros(8)}
    one = networks.random_state(shapes)
    other = networks.random_state(dict(reversed(shapes.items())))
    assert all(torch.equal(one[key], other[key]) for key in shapes)
    assert one['b.weight'].min() >= 0.5


# A checkout with what the loader touches, and every import of theirs.
CHECKOUT = {
    'config.py': """
from utils.attr_dict import AttrDict
from runx.logx import logx
cfg = AttrDict(OPTIONS=AttrDict(), MODEL=AttrDict(), DATASET=AttrDict(),
               LOSS=AttrDict())
logx.msg('read')
""",
    'utils/attr_dict.py': """
class AttrDict(dict):
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__
""",
    'network/hrnetv2.py': """
import numpy as np
class HighResolutionNet:
    def init_weights(self):
        raise RuntimeError('no weights to read')
""",
    'network/ocrnet.py': """
import torch
import torchvision.transforms as standard_transforms
import torchvision.utils as vutils
from apex import amp
from apex.parallel import SyncBatchNorm
from tabulate import tabulate
from config import cfg
from network import hrnetv2

@amp.float_function
def double(x):
    return x * 2

class Network(torch.nn.Module):
    def __init__(self, num_classes, criterion):
        super().__init__()
        hrnetv2.HighResolutionNet().init_weights()
        assert hrnetv2.np.int(2.5) == 2
        self.bn = cfg.MODEL.BNFUNC(num_classes)

    def forward(self, inputs):
        assert cfg.MODEL.N_SCALES == [0.5, 1.0]
        return dict(pred=double(inputs['images']), gts=inputs.get('gts'))

HRNet_Mscale = Network
""",
    'network/__init__.py': '',
    'utils/__init__.py': '',
}


@pytest.fixture
def checkout(tmp_path):
    for name, text in CHECKOUT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_authors_program_is_loaded_and_forgotten(checkout, monkeypatch):
    mine = ModuleType('utils')
    monkeypatch.setitem(sys.modules, 'utils', mine)
    before, path = set(sys.modules), list(sys.path)
    with torch.device('meta'):
        model = torch.nn.Conv2d(1, 1, 1)
    model.num_classes = 19
    network = authors.AuthorsNetwork(checkout, model, (0.5, 1.0))
    assert network.network.bn.num_features == 19
    assert not network.network.training
    half = torch.ones(1, dtype=torch.float16)
    assert network(half)['pred'].dtype == torch.float32
    assert network(half.double())['pred'].dtype == torch.float64
    assert set(sys.modules) == before
    assert sys.modules['utils'] is mine
    assert sys.path == path


def test_a_program_that_fails_is_forgotten_too(checkout):
    (checkout / 'network/ocrnet.py').write_text('import nothing_like_this')
    with torch.device('meta'):
        model = torch.nn.Conv2d(1, 1, 1)
    model.num_classes = 19
    before = set(sys.modules)
    with pytest.raises(ModuleNotFoundError, match='nothing_like_this'):
        authors.AuthorsNetwork(checkout, model)
    assert set(sys.modules) == before


def test_what_is_no_checkout(tmp_path):
    with pytest.raises(ValueError, match=r'expected a checkout.*ocrnet\.py'):
        authors.AuthorsNetwork(tmp_path, None)


@pytest.mark.skipif(
    'HMSA_AUTHORS' not in os.environ,
    reason='needs HMSA_AUTHORS, a checkout of NVIDIA/semantic-segmentation',
)
def test_literal_network_is_the_authors():
    model = networks.build(networks.config_for('full'), fast=False)
    options = Options(authors=Path(os.environ['HMSA_AUTHORS']))
    theirs, literal = networks.reference_networks(options, model).values()
    x = networks.images(1, (96, 160))
    with torch.no_grad():
        expected, found = theirs(x), literal(x)
    for key, value in expected.items():
        assert logits_difference(found[key], value) <= 1e-6, key
    label = networks.labels(1, (96, 160), 19, 12)
    losses = []
    for network in (theirs.train(), literal.train()):
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout2d):
                module.p = 0.0
        losses.append(network.loss(x, label))
    torch.testing.assert_close(*losses)
