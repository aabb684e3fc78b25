"""Counting and timing, the dispatcher, its table, and the RMI suite."""

import functools
import importlib
import json
import math
import sys

import benchmark
import pytest
import torch
from benchmarks import measure, rmi, stopwatch
from benchmarks.measure import Ratio, Timing
from benchmarks.report import (
    Figure,
    plot,
    shares_table,
    table,
)


def test_flops_of_forward_and_backward():
    a = torch.randn(3, 5, requires_grad=True)
    b = torch.randn(5, 7, requires_grad=True)
    assert measure.count_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    counted = measure.count_flops(lambda: (a @ b).sum().backward())
    assert counted == 3 * 2 * 3 * 5 * 7


@pytest.mark.parametrize('groups', [1, 2, 64])
@pytest.mark.parametrize('conv', [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_flops_of_grouped_convolutions(conv, groups):
    conv = conv(64, 64, 3, padding=1, groups=groups, bias=False)
    x = torch.randn(2, 64, 8, 8, requires_grad=True)
    forward = 2 * 2 * 64 * 64 // groups * 3 * 3 * 8 * 8
    assert measure.count_flops(lambda: conv(x)) == forward
    counted = measure.count_flops(lambda: conv(x).sum().backward())
    assert counted == 3 * forward
    counted = measure.count_flops(lambda: conv(x.detach()).sum().backward())
    assert counted == 2 * forward


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_peak_of_what_is_held_at_once(device):
    x = torch.zeros(1000, device=device)  # 4 kB
    peak = measure.peak_live_bytes
    assert peak(lambda: x + 1) == 4000
    assert peak(lambda: x.view(10, 100)[1:].add_(1)) == 0
    assert peak(lambda: ((x + 1) + 1) + 1) == 8000
    assert peak(lambda: (x + 1) + (x + 2)) == 12000
    assert peak(lambda: [x + 1, x.double()]) == 12000


def test_peak_includes_backward():
    x = torch.zeros(1000, requires_grad=True)
    # The exponential is kept; the gradient of the sum is one number, expanded.
    peak = measure.peak_live_bytes(lambda: x.exp().sum().backward())
    assert 8000 <= peak <= 8016


def test_interleaved_takes_turns():
    calls = []
    functions = dict(a=lambda: calls.append('a'), b=lambda: calls.append('b'))
    times = measure.interleaved(functions, rounds=3, warmup=1)
    assert ''.join(calls) == 'baabbaab'
    assert {name: len(found) for name, found in times.items()} == dict(
        a=3, b=3
    )
    assert all(t.wall >= 0 for found in times.values() for t in found)
    with pytest.raises(ValueError, match='got 0 rounds'):
        measure.interleaved(functions, rounds=0)


def test_ratios_are_taken_within_a_round():
    times = dict(
        a=[Timing(2, 8), Timing(6, 6), Timing(30, 9)],
        b=[Timing(1, 1), Timing(2, 2), Timing(3, 3)],
    )
    assert measure.pair_ratios(times, 'a', 'b') == Ratio(3, 2, 10)
    assert measure.pair_ratios(times, 'a', 'b', 'cpu') == Ratio(3, 3, 8)
    assert measure.median_ms(times['a']) == 6000


def test_machine_names_what_was_used():
    found = measure.machine()
    assert found['threads'] == torch.get_num_threads()
    assert found['torch'] == torch.__version__
    assert found['cores'] >= 1
    assert found['cpu'] in benchmark.describe(found)
    assert found['date'] in benchmark.describe(found)


def test_stopwatch_tells_inner_from_outer_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(stopwatch.time, 'perf_counter', lambda: clock[0])

    class Model:
        def inner(self, seconds):
            clock[0] += seconds

        def outer(self):
            clock[0] += 1
            self.inner(4)
            self.inner(2)
            clock[0] += 1

    model = Model()
    model.inner = own = functools.partial(Model.inner, model)
    parts = [('out', model, 'outer'), ('in', model, 'inner')]
    watch = stopwatch.Stopwatch()
    with watch.watching(parts):
        model.outer()
    clock[0] += 50
    assert watch.seconds == {'out': 2, 'in': 6}
    assert watch.shares() == {'out': 0.25, 'in': 0.75}
    # What was replaced is back: one of the object's, the other the class's.
    assert model.inner is own
    assert 'outer' not in vars(model)
    found = stopwatch.profile(lambda: model.outer(), parts, calls=3)
    assert found == {'out': 0.25, 'in': 0.75}


def test_stopwatch_follows_generators(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(stopwatch.time, 'perf_counter', lambda: clock[0])

    class Model:
        def items(self, count):
            for i in range(count):
                clock[0] += 3
                yield i

        def outer(self):
            for _ in self.items(2):
                clock[0] += 1
            return list(self.items(1))

    watch = stopwatch.Stopwatch()
    model = Model()
    parts = [('out', model, 'outer'), ('in', Model, 'items')]
    with watch.watching(parts):
        assert model.outer() == [0]
    assert watch.seconds == {'out': 2, 'in': 9}


def test_stopwatch_puts_all_back_after_an_error():
    def wrong(x):
        raise ValueError('wrong')

    layer = torch.nn.Linear(2, 2)
    layer.forward = wrong
    with (
        pytest.raises(ValueError, match='wrong'),
        stopwatch.Stopwatch().watching([('layer', layer, 'forward')]),
    ):
        layer(torch.ones(1, 2))
    assert layer.forward is wrong


def test_operators_that_take_the_time():
    x = torch.randn(256, 256)
    found = stopwatch.operator_shares(lambda: x @ x @ x @ x, count=1)
    assert list(found) == ['mm', 'others']
    assert 0.5 < found['mm'] <= 1
    assert sum(found.values()) == pytest.approx(1)


FIGURES = [
    Figure('time', 'literal', 0.5, target=0.6, detail='far'),
    Figure('speed', 'literal', 4.0, target=8, at_least=True),
    Figure('peak', 'authors', 2.6, 'GB', target=2.5),
    Figure('memory', 'hierarchical', 3.9, at_least=True),
]


def test_table_says_what_is_met():
    assert [figure.is_met for figure in FIGURES] == [True, False, False, None]
    assert [figure.effort for figure in FIGURES[:3]] == [0.5 / 0.6, 2, 1.04]
    _, _, *lines = table(FIGURES).splitlines()
    assert lines == [
        '| time | literal | <= 0.60 | 0.50 | yes | far |',
        '| speed | literal | >= 8.00x | 4.00x | **no** |  |',
        '| peak | authors | <= 2.50 GB | 2.60 GB | **no** |  |',
        '| memory | hierarchical | reported | 3.90x |  |  |',
    ]


def test_not_a_number_meets_nothing():
    for at_least in (False, True):
        figure = Figure('', '', math.nan, target=1, at_least=at_least)
        assert figure.is_met is False


def test_plot_is_a_picture(tmp_path):
    plot(FIGURES, tmp_path / 'table.png')
    assert (tmp_path / 'table.png').read_bytes()[:4] == b'\x89PNG'


def test_shares_of_several_columns():
    found = shares_table({'a': {'x': 0.25, 'y': 0.75}, 'b': {'x': 1.0}})
    assert found.splitlines()[2:] == [
        '| x | 25.0 % | 100.0 % |',
        '| y | 75.0 % |  |',
    ]


@pytest.mark.parametrize('suite', benchmark.SUITES.values())
def test_every_suite_has_what_the_dispatcher_calls(suite):
    module = importlib.import_module(suite)
    assert module.TITLE
    assert callable(module.run)
    assert callable(module.markdown)
    if suite in benchmark.TABLE.values():
        assert callable(module.figures)


@pytest.fixture
def run_main(monkeypatch, tmp_path):
    """Return a function that runs the tool; threads stay what they were."""
    threads = torch.get_num_threads()

    def run(*args):
        argv = ['benchmark.py', *args, '--out', str(tmp_path / 'out')]
        monkeypatch.setattr(sys, 'argv', argv)
        benchmark.main()
        return tmp_path / 'out'

    yield run
    torch.set_num_threads(threads)


def test_rmi_suite_writes_both_files(run_main, capsys):
    out = run_main('rmi', '--size', 'small', '--rounds', '1')
    found = json.loads((out / 'rmi.json').read_text())
    assert found['command'] == (
        'python tools/dev/benchmark.py rmi --size small --rounds 1'
    )
    assert {row['num_classes'] for row in found['results']} == {19, 65}
    for row in found['results']:
        assert row['difference']['loss'] <= 1e-6
        assert row['difference']['grad'] <= 1e-4
        assert row['wall_ratio']['low'] == row['wall_ratio']['high'] > 0
    text = (out / 'rmi.md').read_text()
    assert text.startswith(
        '# RMI loss\n\n```shell\npython tools/dev/benchmark.py'
    )
    assert text.count('| 65 (24) | 64x64 | ') == len(found['results']) // 2
    assert text in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        'rmi.json',
        'rmi.md',
        'table.md',
        'table.png',
    }
    rows = (out / 'table.md').read_text()
    for row in found['results']:
        expected = '>= 8.00x' if row['num_classes'] == 19 else '>= 12.00x'
        assert expected in rows
        assert f'| {row["wall_ratio"]["median"]:.2f}x |' in rows


@pytest.mark.parametrize(
    'wrong',
    [
        lambda loss: loss * 1.00001,
        lambda loss: loss * float('nan'),
        lambda loss: loss.detach() + 1.01 * (loss - loss.detach()),
    ],
    ids=['loss', 'not a number', 'gradient'],
)
def test_rmi_suite_does_not_time_what_is_not_equal(
    run_main, monkeypatch, wrong
):
    def make_loss():
        return lambda *args: wrong(rmi.literal_rmi_loss(*args))

    monkeypatch.setattr(rmi, 'RMILoss', make_loss)
    with pytest.raises(SystemExit, match='not equal to the formula'):
        run_main('rmi', '--size', 'small', '--rounds', '1')


def test_small_sizes_do_not_go_where_full_ones_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'rmi', '--size=small'])
    with pytest.raises(SystemExit):
        benchmark.parse_args()
    assert '--size small needs --out' in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'rmi'])
    assert benchmark.parse_args().out == benchmark.OUT


def test_rmi_needs_little_memory():
    """Beside the gradient, little more than the one-hot labels as bytes."""
    case = rmi.Case(19, 12, 256, 512)
    logits, label = rmi.make_inputs(case, 'cpu')
    loss = rmi.RMILoss()
    peak = measure.peak_live_bytes(lambda: rmi.step(loss, logits, label))
    gradient = 4 * logits.numel()
    assert gradient < peak < 2.2 * gradient
    formula = measure.peak_live_bytes(
        lambda: rmi.step(rmi.literal_rmi_loss, logits, label)
    )
    assert formula - gradient > 5 * (peak - gradient)


class FakeSuite:
    """Counts its runs, and is killed when it is told to be."""

    TITLE = 'Fake'

    def __init__(self):
        self.runs = 0
        self.is_killed = False

    def run(self, options):
        if self.is_killed:
            raise KeyboardInterrupt
        self.runs += 1
        return dict(machine=measure.machine(), rounds=options.rounds)

    def markdown(self, results):
        return f'{results["rounds"]} rounds'

    def figures(self, results):
        return [Figure('rounds', 'none', results['rounds'])]


@pytest.fixture
def fake_suites(monkeypatch):
    """Two suites, `one` and `two`, in the place of all."""
    suites = dict(one=FakeSuite(), two=FakeSuite())
    names = {name: f'fake.{name}' for name in suites}
    monkeypatch.setattr(benchmark, 'SUITES', names)
    monkeypatch.setattr(benchmark, 'TABLE', names)
    monkeypatch.setattr(
        benchmark.importlib,
        'import_module',
        lambda name: suites[name.removeprefix('fake.')],
    )
    return suites


def test_a_run_that_was_broken_off_goes_on(run_main, fake_suites, capsys):
    one, two = fake_suites.values()
    two.is_killed = True
    with pytest.raises(KeyboardInterrupt):
        run_main('table')
    two.is_killed = False
    out = run_main('table')
    assert (one.runs, two.runs) == (1, 1)
    assert 'one: measured before' in capsys.readouterr().err
    assert not (out / 'unfinished.json').exists()
    # After the end, or with other settings, all is measured again.
    run_main('table')
    assert (one.runs, two.runs) == (2, 2)
    two.is_killed = True
    for args in (('table',), ('table', '--rounds', '3')):
        with pytest.raises(KeyboardInterrupt):
            run_main(*args)
    assert one.runs == 4
    with pytest.raises(KeyboardInterrupt):
        run_main('table', '--rounds', '3', '--fresh')
    assert one.runs == 5


def test_table_has_what_was_measured_earlier(run_main, fake_suites, capsys):
    run_main('one', '--rounds', '3')
    run_main('two', '--rounds', '4')
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if '| rounds |' in line]
    assert [row.split('|')[4].strip() for row in rows] == [
        '3.00',
        '3.00',
        '4.00',
    ]


def test_options_that_make_no_sense(run_main, capsys):
    for option in ('--rounds', '--threads'):
        with pytest.raises(SystemExit):
            run_main('rmi', option, '0')
        assert f'{option}: expected 1 or more' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_main('nothing')
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_main('rmi', '--authors', '/nowhere')
    assert '--authors /nowhere: expected a checkout' in capsys.readouterr().err
