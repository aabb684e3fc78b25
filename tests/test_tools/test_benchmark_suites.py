"""The suites: that they run, and that they refuse what is not equal."""

import os
import subprocess
import sys
from pathlib import Path

import benchmark
import pytest
from benchmarks import inference, loss, measure, networks, rmi, train
from benchmarks import tta as tta_suite
from benchmarks.cases import Options
from oracles.literal_network import LiteralNetwork
from oracles.recorded_graph import RecordingOnCPU

from hmsa_mmseg.models import AccumulatingTTAModel
from hmsa_mmseg.models.utils.cuda_graph import GraphCache

ROOT = Path(__file__).parents[2]
SMALL = Options(size='small', rounds=1)


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
    found = {
        figure.limit
        for figure in benchmark.all_figures(tmp_path)
        if figure.measured is not None
    }
    assert found == {limit for limit in suite.LIMITS if not limit.on_gpu}


@pytest.mark.slow
def test_ways_with_graphs(tmp_path, monkeypatch):
    """By the stand-in: rows, differences and what a GPU is measured by."""
    monkeypatch.setattr(GraphCache, 'recorder_type', RecordingOnCPU)
    rows = benchmark.measure('train', *first_case('train'))
    rows += benchmark.measure('inference', *first_case('inference'))
    graphed = [row for row in rows if 'graph' in row['way']]
    assert len(graphed) == 4
    for row in graphed:
        assert 'error' not in row
        graph, _ = row['graph_difference']
        assert graph <= 1e-5


def first_case(name):
    return next(iter(benchmark.suite_of(name).cases(SMALL))), SMALL


@pytest.mark.slow
def test_gpu_check_on_a_cpu(tmp_path):
    run = subprocess.run(
        [ROOT / 'tools/dev/gpu_check.sh', tmp_path],
        env=dict(os.environ, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES=''),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    assert {path.stem for path in tmp_path.glob('*.md')} == {
        *('train', 'inference', 'table'),
    }
    # What comes with the first run is not left.
    assert not (tmp_path / 'unfinished.json').exists()


def off(function):
    """Give what a function gives, and a thousandth more."""
    return lambda *args, **kwargs: function(*args, **kwargs) * 1.001


def off_if_fast(logits):
    return lambda networks, x, fast: (
        logits(networks, x, fast) * (1.001 if fast else 1)
    )


def with_other_gradient(function):
    def changed(*args):
        value = function(*args)
        return value + 0.01 * (value - value.detach())

    return changed


def with_other_result(test_step):
    def changed(model, data):
        samples = test_step(model, data)
        for sample in samples:
            sample.pred_sem_seg.data += 1
        return samples

    return changed


def check(suite):
    """Check the first case; of trainings, the way of the authors."""
    if suite is train:
        train.check(networks.config_for('small'), ('literal',), SMALL)
    else:
        next(iter(suite.cases(SMALL).values()))().check()


@pytest.mark.parametrize(
    ('suite', 'place', 'name', 'wrong', 'match'),
    [
        (loss, loss, 'literal_loss', off, 'loss: .*not equal'),
        (loss, loss, 'literal_loss', with_other_gradient, 'loss: .*gradient'),
        (rmi, rmi, 'literal_rmi_loss', off, 'rmi: .*not equal'),
        (rmi, rmi, 'literal_rmi_loss', with_other_gradient, 'rmi: .*gradient'),
        (
            *(inference, inference.Networks, 'logits', off_if_fast),
            r"inference, float32: .*\{'fast'",
        ),
        (train, LiteralNetwork, 'loss', off, 'train: .*literal'),
        (
            *(tta_suite, AccumulatingTTAModel, 'test_step', with_other_result),
            'tta: .*wrong classes',
        ),
    ],
)
def test_results_must_be_equal(suite, place, name, wrong, match, monkeypatch):
    monkeypatch.setattr(place, name, wrong(getattr(place, name)))
    with pytest.raises(SystemExit, match=match):
        check(suite)


def test_rmi_needs_little_memory():
    """Beside the gradient, little more than the one-hot labels as bytes."""
    case = rmi.make_case(19, 12, (256, 512), 'cpu')
    formula, ours = (
        measure.live_gb(way) - case.result_gb for way in case.ways.values()
    )
    assert 0 < ours < 1.2 * case.result_gb
    assert formula > 5 * ours
