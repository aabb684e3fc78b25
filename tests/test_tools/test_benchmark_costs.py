"""What the networks cost at their true size, counted without values."""

import pytest
import torch
from benchmarks import counts, networks
from benchmarks.cases import Options
from benchmarks.measure import count_flops, live_gb
from benchmarks.steps import meta_step
from oracles.literal_network import LiteralNetwork

FULL_SIZE = (1024, 2048)
OPTIONS = Options()


@torch.no_grad()
def test_operations_and_memory_of_inference():
    """Operations: against the authors', see test_benchmark_peers.py.

    On a quarter of the rows: as wide as at the true size, so that the tiles
    of rows are the same ones, and a quarter of them.
    """
    model = networks.build(networks.config_for('full'), 'meta')
    x = networks.images(1, (FULL_SIZE[0] // 4, FULL_SIZE[1]), 'meta')
    plain = networks.build(networks.config_for('full'), 'meta', fast=False)
    literal = LiteralNetwork(plain)
    fast = count_flops(lambda: model.encode_decode(x))
    assert fast <= 0.62 * count_flops(lambda: literal(x))
    x = networks.images(1, FULL_SIZE, 'meta')
    assert live_gb(lambda: counts.classes(model, x)) <= 2.5


@pytest.mark.parametrize(
    'recipe',
    [
        'Cityscapes',
        pytest.param('Mapillary', marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize('checkpoint', [(), counts.CHECKPOINT])
def test_memory_of_training(recipe, checkpoint):
    name, batch, size, *targets = counts.RECIPES[recipe]
    cfg = networks.config_for('full', name, checkpoint=checkpoint)
    step = meta_step('fast', cfg, batch, size, OPTIONS, autocast=True)
    assert live_gb(step) <= targets[bool(checkpoint)]


@pytest.mark.slow
def test_a_step_holds_no_more_than_one_of_mmseg():
    cfg = networks.config_for('full', networks.CROSS_ENTROPY)
    fast, stock = (
        live_gb(meta_step(name, cfg, 1, FULL_SIZE, OPTIONS, autocast=True))
        for name in ('fast', networks.STOCK)
    )
    assert fast <= stock


def test_two_scales_cost_no_more_operations_than_one_in_mmseg():
    cfg = networks.config_for('full')
    fast, stock = (
        count_flops(meta_step(name, cfg, 1, FULL_SIZE, OPTIONS))
        for name in ('fast', networks.STOCK)
    )
    assert fast <= stock


def test_explicit_attention_takes_several_times_the_memory():
    """The paper's claim: roughly four times."""
    ways = counts.attention_to_scale(OPTIONS)
    hierarchical, explicit = map(live_gb, ways.values())
    assert 3.5 <= explicit / hierarchical <= 4.5
