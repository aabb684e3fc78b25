"""What the benchmarks race against: transcription, authors, mmseg."""

import os
from pathlib import Path

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
