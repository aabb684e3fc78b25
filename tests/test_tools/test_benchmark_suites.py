"""The suites: that they run, and that they refuse what is not equal."""

import json
import sys

import benchmark
import pytest
import torch
from benchmarks import (
    flops,
    fusion,
    inference,
    loss,
    memory,
    networks,
    rmi,
    train,
    tta,
)
from benchmarks.options import Options
from benchmarks.report import Figure
from oracles import literal_network

from hmsa_mmseg.models.tiled.logit_rows import LogitRows

SMALL = Options(size='small', rounds=1)
SUITES = sorted({*benchmark.TABLE, 'recipes'} - {'rmi'})


@pytest.fixture
def run_main(monkeypatch, tmp_path):
    """Return a function that runs one suite at the small size."""

    def run(name):
        argv = [name, '--size', 'small', '--rounds', '1']
        argv = ['benchmark.py', *argv, '--out', str(tmp_path)]
        monkeypatch.setattr(sys, 'argv', argv)
        benchmark.main()
        return json.loads((tmp_path / f'{name}.json').read_text())

    return run


@pytest.mark.slow
@pytest.mark.parametrize('name', SUITES)
def test_suite_writes_page_and_figures(
    run_main, monkeypatch, tmp_path, capsys, name
):
    # Counting takes as long at any size; test_benchmark_costs.py counts.
    monkeypatch.setattr(flops, 'count_flops', lambda function: 1e12)
    monkeypatch.setattr(memory, 'live_gb', lambda function: 1.0)
    found = run_main(name)
    assert found['command'].startswith(
        f'python tools/dev/benchmark.py {name} '
    )
    assert found['machine']['torch'] == torch.__version__
    text = (tmp_path / f'{name}.md').read_text()
    assert text in capsys.readouterr().out
    # Every row of every table has as many cells as its head.
    width = None
    for line in text.splitlines():
        if not line.startswith('|'):
            width = None
            continue
        width = width or line.count('|')
        assert line.count('|') == width, line
    if name != 'recipes':  # whose figures are those of a GPU
        rows = (tmp_path / 'table.md').read_text()
        assert 'nan' not in rows
        assert rows.count('\n| ') > 1


def off(function):
    """Give what a function gives, and a thousandth more."""
    return lambda *args, **kwargs: function(*args, **kwargs) * 1.001


def test_fusion_must_be_equal(monkeypatch):
    monkeypatch.setattr(LogitRows, 'whole', off(LogitRows.whole))
    with pytest.raises(SystemExit, match=r'fusion: .*row tiles'):
        fusion.run(SMALL)


def test_classes_must_be_equal(monkeypatch):
    right = fusion.classes_of_rows
    monkeypatch.setattr(
        fusion, 'classes_of_rows', lambda *args: 18 - right(*args)
    )
    with pytest.raises(SystemExit, match=r'fusion: .*wrong classes'):
        fusion.run(SMALL)


def test_losses_must_be_equal(monkeypatch):
    monkeypatch.setattr(loss, 'literal_loss', off(loss.literal_loss))
    with pytest.raises(SystemExit, match='loss: the results are not equal'):
        loss.run(SMALL)


def test_gradients_must_be_equal(monkeypatch):
    right = loss.literal_loss

    def with_other_gradient(leaves, label):
        value = right(leaves, label)
        return value + 0.01 * (value - value.detach())

    monkeypatch.setattr(loss, 'literal_loss', with_other_gradient)
    with pytest.raises(SystemExit, match='loss: the results are not equal'):
        loss.run(SMALL)


def test_inference_must_be_equal(monkeypatch):
    right = inference.Networks.logits

    def logits(networks, x, fast):
        return right(networks, x, fast) * (1.001 if fast else 1)

    monkeypatch.setattr(inference.Networks, 'logits', logits)
    with pytest.raises(SystemExit, match=r"inference, float32: .*\{'fast'"):
        inference.run(SMALL)


def test_training_must_be_equal(monkeypatch):
    network = literal_network.LiteralNetwork
    monkeypatch.setattr(network, 'loss', off(network.loss))
    cfg = networks.config_for('small')
    with pytest.raises(SystemExit, match=r'train: .*literal, gradients'):
        train.check(cfg, ('literal',), SMALL)


def test_test_time_augmentation_must_be_equal(monkeypatch):
    right = tta.AccumulatingTTAModel.test_step

    def wrong(model, data):
        samples = right(model, data)
        for sample in samples:
            sample.pred_sem_seg.data += 1
        return samples

    monkeypatch.setattr(tta.AccumulatingTTAModel, 'test_step', wrong)
    with pytest.raises(SystemExit, match=r'tta: .*wrong classes'):
        tta.run(SMALL)


def test_views_are_those_of_a_pipeline():
    found = tta.views((8, 12), (0.5, 1.0), (False, True), 'cpu')
    sizes = [tuple(image.shape[1:]) for (image,) in found['inputs']]
    assert sizes == [(4, 6), (4, 6), (8, 12), (8, 12)]
    *_, (plain,), (flipped,) = found['inputs']
    assert torch.equal(plain, flipped.flip(2))
    *_, (sample,), (other,) = found['data_samples']
    assert (sample.flip, other.flip) == (False, True)
    assert other.flip_direction == 'horizontal'
    assert sample.ori_shape == (8, 12)


def test_issue_table_has_every_figure():
    """The targets, as they were set, whatever is measured."""
    peaks = {'fast': 2.0, 'fast, checkpointing': 1.0, 'literal': 4.0}
    peaks.update({f'{key}, half': value for key, value in peaks.items()})
    recipe = dict(size=(1, 2), batch_size=1, peak=peaks)
    found = [
        *memory.figures(
            dict(
                size=(1, 2),
                inference={
                    'literal': 4.0,
                    'plain': 3.0,
                    'fast': 2.0,
                    'fast, classes': 1.0,
                },
                training=dict(Cityscapes=recipe, Mapillary=recipe),
                fusion=dict(explicit=8.0, hierarchical=2.0),
            )
        ),
        *flops.figures(
            dict(
                size=(1, 2),
                inference=dict(literal=10.0, plain=9.0, fast=6.0),
                training={'fast': 9.0, 'mmseg OCRNet, scale 1': 10.0},
            )
        ),
    ]
    assert all(isinstance(figure, Figure) for figure in found)
    targets = [figure.target for figure in found]
    assert targets == [2.5, 8.8, 3.7, 9.0, 3.8, None, 0.62, None]
    assert found[0].measured == 1.0
    assert found[5].measured == 4.0
    assert found[6].measured == 0.6
    assert rmi.FASTER == {19: 8, 65: 12}
