"""The suites: that they run, and that they refuse what is not equal."""

import benchmark
import pytest
from benchmarks import (
    fusion,
    inference,
    loss,
    measure,
    networks,
    rmi,
    train,
    tta,
)
from benchmarks.cases import Options, rows_of
from oracles.literal_network import LiteralNetwork

from hmsa_mmseg.models.tiled.logit_rows import LogitRows

SMALL = Options(size='small', rounds=1)


def run(suite):
    """Check and measure the first case."""
    return rows_of(next(iter(suite.cases(SMALL).values()))(), SMALL)


# The suite `zoo` is in test_benchmark_zoo.py.
@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n in benchmark.SUITES if n != 'zoo'])
def test_suite_writes_page_and_figures(tmp_path, capsys, name):
    argv = [name, '--size', 'small', '--rounds', '1', '--out', str(tmp_path)]
    benchmark.main(argv)
    text = (tmp_path / f'{name}.md').read_text()
    assert text in capsys.readouterr().out
    # Every row of every table has as many cells as its head.
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert len(rows) > 3
    assert len({row.count('|') for row in rows}) == 1
    assert 'Error' not in text
    suite = benchmark.suite_of(name)
    figures = benchmark.all_figures(tmp_path)
    assert {figure.limit for figure in figures} == set(suite.LIMITS)


def off(function):
    """Give what a function gives, and a thousandth more."""
    return lambda *args, **kwargs: function(*args, **kwargs) * 1.001


def with_other_gradient(function):
    def changed(*args):
        value = function(*args)
        return value + 0.01 * (value - value.detach())

    return changed


def test_fusion_must_be_equal(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LogitRows, 'whole', off(LogitRows.whole))
        with pytest.raises(SystemExit, match=r'fusion: .*row tiles'):
            run(fusion)
    right = fusion.classes_of_rows
    monkeypatch.setattr(
        fusion, 'classes_of_rows', lambda *args: 18 - right(*args)
    )
    with pytest.raises(SystemExit, match=r'fusion: .*wrong classes'):
        run(fusion)


@pytest.mark.parametrize('wrong', [off, with_other_gradient])
def test_losses_must_be_equal(monkeypatch, wrong):
    monkeypatch.setattr(loss, 'literal_loss', wrong(loss.literal_loss))
    with pytest.raises(SystemExit, match='loss: the results are not equal'):
        run(loss)
    other = wrong(rmi.literal_rmi_loss)
    monkeypatch.setattr(rmi, 'RMILoss', lambda: other)
    with pytest.raises(SystemExit, match='rmi: the results are not equal'):
        run(rmi)


def test_inference_must_be_equal(monkeypatch):
    right = inference.Networks.logits

    def logits(networks, x, fast):
        return right(networks, x, fast) * (1.001 if fast else 1)

    monkeypatch.setattr(inference.Networks, 'logits', logits)
    with pytest.raises(SystemExit, match=r"inference, float32: .*\{'fast'"):
        run(inference)


def test_training_must_be_equal(monkeypatch):
    monkeypatch.setattr(LiteralNetwork, 'loss', off(LiteralNetwork.loss))
    cfg = networks.config_for('small')
    with pytest.raises(SystemExit, match=r'train: .*literal'):
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
        tta.check(SMALL)


def test_rmi_needs_little_memory():
    """Beside the gradient, little more than the one-hot labels as bytes."""
    case = rmi.make_case(19, 12, (256, 512), 'cpu')
    formula, ours = (
        measure.live_gb(way) - case.result_gb for way in case.ways.values()
    )
    assert 0 < ours < 1.2 * case.result_gb
    assert formula > 5 * ours
