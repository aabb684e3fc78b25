"""What the benchmarks race against: transcription, authors, mmseg."""

import os
from pathlib import Path

import pytest
import torch
from benchmarks import networks
from benchmarks.cases import Options, logits_difference
from benchmarks.measure import count_flops, peak_live_bytes
from oracles.literal_network import LiteralNetwork

# Counted with the authors' own program at 1024x2048, scales 0.5, 1 and 2.
AUTHORS_GFLOP, AUTHORS_PEAK = 16063.3, 9_166_690_304


@torch.no_grad()
def test_literal_network_and_mmsegs_are_ours():
    """With lively weights.

    Sizes and scales are not those whose features mmseg's and the authors'
    resizes see differently: the literal network and ours share the backbone.
    """
    ours = networks.build(networks.config_for('small'), fast=False)
    x = networks.images(2, (61, 83))
    expected = ours.encode_decode(x)
    literal = LiteralNetwork(ours, (0.5, 1.0, 2.0)).eval()
    assert logits_difference(literal(x)['pred'], expected) <= 1e-5
    assert expected.argmax(1).unique().numel() > 1
    ours.test_cfg.scales = (1.0,)
    x = networks.images(1, (64, 96))
    expected = ours.encode_decode(x)
    literal = LiteralNetwork(ours, (1.0,)).eval()
    assert logits_difference(literal(x)['pred'], expected) <= 1e-5
    stock = networks.build_stock(networks.config_for('small'))
    assert type(stock).__name__ == 'CascadeEncoderDecoder'
    (found,) = stock.predict(x)
    found = found.seg_logits.data[None]
    assert logits_difference(found, expected) <= 1e-5


@torch.no_grad()
def test_literal_network_costs_what_the_authors_does():
    model = networks.build(networks.config_for('full'), 'meta', fast=False)
    network = LiteralNetwork(model)
    x = networks.images(1, (1024, 2048), 'meta')
    gflop = count_flops(lambda: network(x)) / 1e9
    assert gflop == pytest.approx(AUTHORS_GFLOP, rel=1e-4)
    peak = peak_live_bytes(lambda: network(x))
    assert peak == pytest.approx(AUTHORS_PEAK, rel=1e-3)


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
