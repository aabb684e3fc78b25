"""Counting and timing, the dispatcher, and the RMI suite."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[2] / 'tools'
# The tools are scripts, which find their modules in their own folder.
sys.path.insert(0, str(TOOLS))

import benchmark  # noqa: E402
from benchmarking import measure, rmi  # noqa: E402
from benchmarking.measure import Ratio, Timing  # noqa: E402


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


@pytest.mark.parametrize('suite', benchmark.SUITES.values())
def test_every_suite_has_what_the_dispatcher_calls(suite):
    module = importlib.import_module(suite)
    assert module.TITLE
    assert callable(module.run)
    assert callable(module.markdown)


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
        'python tools/benchmark.py rmi --size small --rounds 1'
    )
    assert {row['num_classes'] for row in found['results']} == {19, 65}
    for row in found['results']:
        assert row['difference']['loss'] <= 1e-6
        assert row['difference']['grad'] <= 1e-4
        assert row['wall_ratio']['low'] == row['wall_ratio']['high'] > 0
    text = (out / 'rmi.md').read_text()
    assert text.startswith('# RMI loss\n\n```shell\npython tools/benchmark.py')
    assert text.count('| 65 (24) | 64x64 | ') == len(found['results']) // 2
    assert text in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {'rmi.json', 'rmi.md'}


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
    def make_loss(num_classes):
        return lambda *args: wrong(rmi.literal_rmi_loss(*args))

    monkeypatch.setattr(rmi, 'RMILoss', make_loss)
    with pytest.raises(SystemExit, match='not equal to the formula'):
        run_main('rmi', '--size', 'small', '--rounds', '1')


def test_rmi_needs_little_memory():
    """Beside the gradient, less than the one-hot labels as bytes."""
    case = rmi.Case(19, 12, 256, 512)
    logits, label = rmi.make_inputs(case, 'cpu')
    loss = rmi.RMILoss(19)
    peak = measure.peak_live_bytes(lambda: rmi.step(loss, logits, label))
    gradient = 4 * logits.numel()
    assert gradient < peak < 2 * gradient
    formula = measure.peak_live_bytes(
        lambda: rmi.step(rmi.literal_rmi_loss, logits, label)
    )
    assert formula - gradient > 8 * (peak - gradient)


def test_options_that_make_no_sense(run_main, capsys):
    for option in ('--rounds', '--threads'):
        with pytest.raises(SystemExit):
            run_main('rmi', option, '0')
        assert f'{option}: expected 1 or more' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_main('nothing')
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
