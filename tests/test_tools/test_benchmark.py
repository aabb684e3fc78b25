"""Counting and timing, the runner, its tables and limits."""

import contextlib
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import benchmark
import pytest
import torch
from benchmarks import cases, measure, page
from benchmarks.autocast import meta_autocast
from benchmarks.cases import Case, Options
from benchmarks.measure import Timing
from benchmarks.page import Limit
from torch.utils.checkpoint import checkpoint

DOCS = Path(__file__).parents[2] / 'docs/benchmarks'
GPU_DOCS = DOCS.with_name('gpu')


@pytest.mark.parametrize(
    ('conv', 'groups'),
    [(torch.nn.Conv2d, 64), (torch.nn.ConvTranspose2d, 1)],
)
def test_flops_of_convolutions(conv, groups):
    conv = conv(64, 64, 3, padding=1, groups=groups, bias=False)
    x = torch.randn(2, 64, 8, 8, requires_grad=True)
    forward = 2 * 2 * 64 * 64 // groups * 3 * 3 * 8 * 8
    assert measure.count_flops(lambda: conv(x)) == forward
    counted = measure.count_flops(lambda: conv(x).sum().backward())
    assert counted == 3 * forward


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_peak_of_what_is_held_at_once(device):
    x = torch.zeros(1000, device=device)  # 4 kB
    peak = measure.peak_live_bytes
    assert peak(lambda: x.view(10, 100)[1:].add_(1)) == 0
    assert peak(lambda: ((x + 1) + 1) + 1) == 8000
    assert peak(lambda: [x + 1, x.double()]) == 12000
    # The exponential is kept; the gradient of the sum is one number, expanded.
    x.requires_grad_()
    assert 8000 <= peak(lambda: x.exp().sum().backward()) <= 8016


def test_dispatched_operations():
    x = torch.zeros(8, 8, device='meta')
    assert measure.count_operations(lambda: (x[1:].view(-1) + 1).sum()) == 2


def test_autocast_on_meta():
    """As that of the CPU does with values: weights are cast once."""

    def step(device):
        conv = torch.nn.Conv2d(8, 8, 3, padding=1)
        net = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(8), conv)
        net.to(device)
        x = torch.zeros(2, 8, 64, 64, device=device)
        label = torch.zeros(2, 64, 64, dtype=torch.long, device=device)

        def again(x):
            return checkpoint(net, x, use_reentrant=False)

        def run():
            mode = contextlib.nullcontext(torch.autograd.backward)
            if device == 'meta':
                mode = meta_autocast(torch.bfloat16)
            with mode as backward:
                with torch.autocast('cpu', torch.bfloat16):
                    logits = again(net(x))
                    loss = torch.nn.functional.cross_entropy(logits, label)
                backward(loss)
            assert logits.dtype == torch.bfloat16
            assert loss.dtype == torch.float32
            net.zero_grad()

        return run

    on_cpu, on_meta = map(step, ('cpu', 'meta'))
    for count in (measure.count_operations, measure.peak_live_bytes):
        assert count(on_meta) == count(on_cpu)


def test_interleaved_takes_turns():
    calls = []
    functions = dict(a=lambda: calls.append('a'), b=lambda: calls.append('b'))
    times = measure.interleaved(functions, rounds=3, warmup=1)
    assert ''.join(calls) == 'baabbaab'
    assert [len(found) for found in times.values()] == [3, 3]
    times = measure.interleaved(dict(a=int), rounds=3, seconds=-1)
    assert len(times['a']) == 1


def test_ratios_are_taken_within_a_round():
    times = dict(
        a=[Timing(2, 8), Timing(6, 6), Timing(30, 9)],
        b=[Timing(1, 1), Timing(2, 2), Timing(3, 3)],
    )
    assert measure.pair_ratios(times, 'a', 'b') == (3, 2, 10)
    assert measure.pair_ratios(times, 'a', 'b', 'cpu') == (3, 3, 8)


def test_rows_of_a_case():
    x = torch.zeros(1000)

    def fails():
        raise RuntimeError('no memory is left\nand more')

    case = Case(
        dict(one=lambda: x + 1, fails=fails),
        counted=dict(meta=lambda: torch.empty(8, 8, device='meta')),
        check=lambda: dict(one=0.5),
        facts=dict(fact=dict(miou=80.0)),
        found_later=dict(one=lambda: dict(kernels=3), fails=fails),
    )
    found = cases.rows_of(case, Options(rounds=2))
    rows = {row.pop('way'): row for row in found}
    assert rows['meta'] == dict(gflop=0, live_gb=256 / 1e9)
    assert rows['fails'] == dict(error='RuntimeError: no memory is left')
    assert rows['fact'] == dict(miou=80.0)
    assert rows['one']['ratio'] == (1, 1, 1)
    assert rows['one']['rounds'] == 2
    assert rows['one']['kernels'] == 3
    assert rows['one']['difference'] == 0.5
    held = Case(dict(one=lambda: x + 1), is_held=True, result_gb=1e-6)
    (row,) = cases.rows_of(held, Options(rounds=1))
    assert row['live_gb'] == pytest.approx(3e-6)
    # Without time nothing begins.
    found = cases.rows_of(case, Options(seconds=-1))
    assert ['no time' in row.get('error', '') for row in found] == [
        *(False, True, True, False),
    ]


def test_what_a_graph_breaks_comes_last():
    """A GPU that answers nothing any more takes no figure of other ways."""
    broken = []

    def eager():
        if broken:
            raise RuntimeError('an illegal address')

    ways = {
        'one': eager,
        'one, graph': lambda: broken.append(1),
        'other': eager,
    }
    found = cases.rows_of(Case(ways), Options(rounds=2))
    one, graph, other = found
    assert one['ms'] > 0
    assert other['ratio'][0] > 0
    assert 'error' not in {*one, *other}
    assert 'illegal address' in graph['error']
    assert 'ms' not in graph


def test_ratios_are_over_the_first_way_alone():
    def fails():
        raise RuntimeError

    rows = cases.rows_of(Case(dict(a=fails, b=int)), Options(rounds=1))
    assert 'ms' in rows[1]
    assert 'ratio' not in rows[1]


def test_difference_of_a_graph():
    one = torch.tensor([0.0, 2.0])
    eager = iter([dict(a=one, b=0 * one), dict(a=one, b=0 * one)])
    found = cases.graph_difference(
        lambda: next(eager), lambda: dict(a=1.5 * one, b=0 * one)
    )
    assert found == dict(graph_difference=(0.5, 0.0))
    found = cases.graph_difference(lambda: dict(a=one), dict)
    assert math.isinf(found['graph_difference'][0])


def test_classes_may_differ_where_logits_tie():
    logits = torch.tensor([2.0, 2.0 - 1e-6, 1.0]).view(1, 3, 1, 1)
    logits = logits.expand(1, 3, 2, 2)

    def wrong(classes, tolerance, logits=logits):
        classes = torch.tensor(classes, dtype=torch.uint8).view(1, 2, 2)
        return cases.wrong_classes(classes, logits, tolerance)

    assert wrong([0, 1, 0, 1], 1e-5) == 0
    assert wrong([0, 1, 2, 1], 1e-5) == 0.25
    assert wrong([0, 1, 0, 1], 1e-7) == 0.5
    assert wrong([0, 0, 0, 0], 1e-5, logits * float('nan')) == 1
    cases.must_be_equal('suite', {'a': 1e-6}, 1e-6)
    for difference in (1.1e-6, float('nan')):
        with pytest.raises(SystemExit, match=r"suite: .*'b'.*nothing was"):
            cases.must_be_equal('suite', {'a': 0, 'b': difference}, 1e-6)


def test_committed_pages_are_those_of_their_data(tmp_path):
    for name in benchmark.SUITES:
        results = json.loads((DOCS / f'data/{name}.json').read_text())
        suite = benchmark.suite_of(name)
        text = page.write_suite(tmp_path, name, suite, results)
        assert text == (DOCS / f'{name}.md').read_text()
    figures = benchmark.all_figures(tmp_path)
    assert page.figures_table(figures) in (DOCS / 'table.md').read_text()
    # Not a number keeps no limit.
    assert not any(fig._replace(measured=math.nan).is_met for fig in figures)
    # Of a GPU there are other limits.
    figures = page.figures_table(benchmark.all_figures(GPU_DOCS))
    for name in ('table.md', 'README.md'):
        assert figures in (GPU_DOCS / name).read_text()


def test_limits_without_a_figure():
    limit = Limit('speed', 'one', 'fast', 'ms', 2, over='slow')
    row = dict(case='one', way='fast', ms=3)
    for rows in (
        [],
        [dict(row, case='two')],
        [row, dict(case='one', way='slow', error='no')],
    ):
        (figure,) = limit.figures(rows, '2026-12-01')
        assert 'never run' in figure.texts
    rows = [row, dict(case='one', way='slow', ms=2)]
    (figure,) = limit.figures(rows, '2026-12-01')
    assert figure.texts[2:] == ['<= 2', '1.50', '2026-12-01', 'yes']
    (figure,) = limit._replace(limit=None).figures(rows, '2026-12-01')
    assert figure.texts[2:] == ['reported', '1.50', '2026-12-01', '']


class FakeSuite(SimpleNamespace):
    """Two cases; counts those that were built, and is killed when told so."""

    TITLE, NOTE = 'Fake', 'Of nothing.'
    LIMITS = [Limit('speed', '', 'a', 'ratio', 1)]

    def cases(self, options):
        def case(title):
            if title == self.killed:
                raise KeyboardInterrupt
            self.built.append(title)
            return Case(dict(a=int))

        return {t: lambda t=t: case(t) for t in ('one', 'two')}


def test_a_run_that_was_broken_off_goes_on(tmp_path, monkeypatch):
    fake = FakeSuite(built=[], killed='two')
    monkeypatch.setattr(benchmark, 'suite_of', lambda name: fake)
    argv = ['rmi', '--rounds', '1', '--out', str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(argv)
    # What is there can be read.
    assert '| one | a |' in (tmp_path / 'rmi.md').read_text()
    fake.killed = None
    benchmark.main([*argv, '--cases', 'on.$'])
    assert fake.built == ['one']
    benchmark.main(argv)
    assert fake.built == ['one', 'two']
    found = json.loads((tmp_path / 'data/rmi.json').read_text())
    assert [row['case'] for row in found['rows']] == ['one', 'two']
    assert 'speed | two' in (tmp_path / 'table.md').read_text()
    # With other settings or when asked, all is measured again.
    fake.killed = 'two'
    for more in ([], ['--rounds', '2'], ['--fresh']):
        with pytest.raises(KeyboardInterrupt):
            benchmark.main([*argv, *more])
    assert fake.built == ['one', 'two', *['one'] * 3]


def test_a_process_that_dies_costs_one_row(monkeypatch):
    # Processes begin anew: what they run has to be found by name.
    for function, error in (
        (os._exit, 'the process died'),
        (math.sqrt, 'ValueError: '),
    ):
        monkeypatch.setattr(benchmark, 'measure', function)
        (row,) = benchmark.measure_apart(-1)
        assert row['error'].startswith(error)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['rmi', '--size=small'], '--size small needs --out'),
        (['rmi', '--rounds', '0'], '--rounds: expected more than 0'),
        (['rmi', '--authors', '/nowhere'], 'expected a checkout'),
        (['zoo', '--data-root', '/nowhere'], 'no such folder'),
    ],
)
def test_refuses(argv, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(argv)
    assert message in capsys.readouterr().err
