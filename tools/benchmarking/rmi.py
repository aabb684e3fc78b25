"""Suite `rmi`: RMILoss against its formula, written down step by step."""

from __future__ import annotations

import hmsa_mmseg  # noqa: F401  # isort: skip

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hmsa_mmseg.models.losses import RMILoss
from hmsa_mmseg.models.losses.rmi_lean import RMITiles

from .literal_rmi import literal_rmi_loss
from .measure import (
    Timing,
    interleaved,
    machine,
    median_ms,
    pair_ratios,
    peak_live_bytes,
)
from .networks import labels
from .options import Options, progress
from .report import Figure, shares_table, size_text
from .stopwatch import operator_shares, profile

TITLE = 'RMI loss'
# What the issue wants of forward and backward on the CPU, by classes.
FASTER = {19: 8, 65: 12}
TEMPORARIES_MB = 20  # beside the gradient, at 512x1024
# Of the loss, of the largest gradient. The formula is in float32 as well.
LOSS_TOLERANCE, GRAD_TOLERANCE = 1e-6, 1e-4


class Case(NamedTuple):
    """A workload: one image, of whose classes some are there."""

    num_classes: int
    num_present: int
    height: int
    width: int


CASES = {
    'full': [Case(19, 12, 512, 1024), Case(65, 24, 512, 512)],
    'small': [Case(19, 12, 64, 128), Case(65, 24, 64, 64)],
}


def make_inputs(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Make logits and labels.

    Returns:
        tuple[Tensor, Tensor]: Logits (1, C, H, W) with a gradient, right in
        part, and labels (1, H, W).
    """
    num_classes, num_present, *size = case
    label = labels(1, tuple(size), num_classes, num_present)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, num_classes, *size, generator=generator)
    right = label.where(label < num_classes, 0)[:, None]
    logits.scatter_add_(1, right, torch.full_like(logits[:, :1], 3))
    return logits.to(device).requires_grad_(), label.to(device)


def step(loss: Callable, logits: Tensor, label: Tensor) -> Tensor:
    """One forward and backward."""
    logits.grad = None
    value = loss(logits, label)
    value.backward()
    return value.detach()


def check(losses: dict[str, Callable], logits: Tensor, label: Tensor) -> dict:
    """Compare loss and gradient.

    Raises:
        SystemExit: If they differ by more than the tolerances.
    """
    values, grads = {}, {}
    for name, loss in losses.items():
        values[name] = step(loss, logits, label)
        grads[name] = logits.grad
    expected, grad = values['formula'], grads['formula']
    found = dict(
        loss=((values['RMILoss'] - expected) / expected).abs().item(),
        grad=((grads['RMILoss'] - grad).abs().max() / grad.abs().max()).item(),
    )
    # Not "greater than": NaN must fail.
    if not (
        found['loss'] <= LOSS_TOLERANCE and found['grad'] <= GRAD_TOLERANCE
    ):
        raise SystemExit(
            f'rmi: RMILoss is not equal to the formula (relative differences '
            f'{found}, allowed {LOSS_TOLERANCE} and {GRAD_TOLERANCE}); '
            'nothing was measured'
        )
    return found


def measure(case: Case, device: str, threads: int, rounds: int) -> dict:
    """Check and measure one workload."""
    torch.set_num_threads(threads)
    logits, label = make_inputs(case, device)
    losses = {
        'formula': literal_rmi_loss,
        'RMILoss': RMILoss(),
    }
    steps = {
        name: lambda loss=loss: step(loss, logits, label)
        for name, loss in losses.items()
    }
    difference = check(losses, logits, label)
    peaks = {}
    for name, run_step in steps.items():
        logits.grad = None
        peaks[name] = peak_live_bytes(run_step)
    times = interleaved(steps, rounds)
    result = dict(
        **case._asdict(),
        device=device,
        threads=threads,
        difference=difference,
        gradient_bytes=logits.numel() * logits.element_size(),
        peak_bytes=peaks,
    )
    for clock in Timing._fields:
        result[f'{clock}_ms'] = {
            name: median_ms(times[name], clock) for name in times
        }
        ratio = pair_ratios(times, 'formula', 'RMILoss', clock)
        result[f'{clock}_ratio'] = ratio._asdict()
    if device == 'cuda' or threads == 1:
        result['shares'] = _shares(steps['RMILoss'])
        result['operators'] = operator_shares(steps['RMILoss'])
    return result


def _shares(run_step: Callable[[], Any]) -> dict[str, float]:
    """Where the time of a step of ``RMILoss`` goes."""
    whole = SimpleNamespace(step=run_step)
    parts = [
        ('labels and checks', whole, 'step'),
        ('pixels to entropy and pooled maps', RMITiles, 'value'),
        ('covariances and determinants, with gradient', RMITiles, 'rest'),
        ('gradient of the pixels', RMITiles, 'gradient'),
    ]
    return profile(lambda: whole.step(), parts, calls=5)


def run(options: Options) -> dict[str, Any]:
    """Check, then measure: on a GPU, or with one thread and with all.

    Args:
        options (Options): Of the run.

    Returns:
        dict: What is written as JSON.
    """
    all_threads = torch.get_num_threads()
    places = [('cuda', all_threads)]
    if options.device == 'cpu':
        places = [('cpu', threads) for threads in sorted({1, all_threads})]
    results = []
    for case in CASES[options.size]:
        for device, threads in places:
            progress(f'rmi: {case} on {device}, {threads} threads')
            results.append(measure(case, device, threads, options.rounds))
    torch.set_num_threads(all_threads)
    return dict(machine=machine(), rounds=options.rounds, results=results)


def figures(results: dict[str, Any]) -> list[Figure]:
    """Rows of the table of what is to be reached."""
    rows = []
    for row in results['results']:
        size = size_text((row['height'], row['width']))
        threads, classes = row['threads'], row['num_classes']
        on_gpu = row['device'] != 'cpu'
        place = 'GPU' if on_gpu else f'{threads} threads'
        ratio = row['wall_ratio']
        rows.append(
            Figure(
                f'RMI forward + backward, {classes} classes, {size}, {place}',
                'literal',
                ratio['median'],
                target=None if on_gpu else FASTER[classes],
                at_least=True,
                detail=f'{ratio["low"]:.1f} to {ratio["high"]:.1f}; CPU time '
                f'{row["cpu_ratio"]["median"]:.1f}',
            )
        )
        if threads == 1:
            peak = row['peak_bytes']['RMILoss'] - row['gradient_bytes']
            rows.append(
                Figure(
                    f'RMI temporaries, {classes} classes, {size}',
                    'beside the gradient',
                    peak / 1e6,
                    'MB',
                    target=TEMPORARIES_MB,
                )
            )
    return rows


def markdown(results: dict[str, Any]) -> str:
    """Format what :func:`run` gives as the text of the suite's page."""
    lines = [
        'Forward and backward of one image, float32, with `RMILoss` and with '
        'the formula written down step by step '
        '([literal_rmi.py](../../tools/benchmarking/literal_rmi.py)), which '
        'makes every map as a whole, as the authors do. Before that, both '
        'were checked to give the same loss (relative) and gradient (of its '
        'largest value). Times: median of '
        f'{results["rounds"]} interleaved rounds; ratios: median and range '
        'of the rounds. Memory: the most that tensors hold at once above '
        'logits and labels; without the gradient, which both must return. '
        'Part of the gain is that classes which the image does not have are '
        'skipped; on a GPU they are not.',
        '',
        '| classes (present) | size | on | difference: loss, gradient '
        '| formula, ms | `RMILoss`, ms | faster, wall | faster, CPU time '
        '| formula, MB | `RMILoss`, MB |',
        '| --- | --- | --- | --- | --: | --: | --: | --: | --: | --: |',
    ]
    for row in results['results']:
        threads = row['threads']
        plural = 's' if threads > 1 else ''
        on_gpu = row['device'] != 'cpu'
        place = 'GPU' if on_gpu else f'CPU, {threads} thread{plural}'
        ratios = [
            f'{ratio["median"]:.1f}x ({ratio["low"]:.1f}-{ratio["high"]:.1f})'
            for ratio in (row['wall_ratio'], row['cpu_ratio'])
        ]
        cells = [
            f'{row["num_classes"]} ({row["num_present"]})',
            f'{row["height"]}x{row["width"]}',
            place,
            f'{row["difference"]["loss"]:.0e}, '
            f'{row["difference"]["grad"]:.0e}',
            *(f'{ms:.0f}' for ms in row['wall_ms'].values()),
            ratios[0],
            '' if on_gpu else ratios[1],
            *(
                f'{(peak - row["gradient_bytes"]) / 1e6:.0f}'
                for peak in row['peak_bytes'].values()
            ),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    profiled = {
        f'{row["num_classes"]} classes': row
        for row in results['results']
        if 'shares' in row
    }
    on_cpu = results['results'][0]['device'] == 'cpu'
    place = 'one thread' if on_cpu else 'the GPU'
    lines += ['', f'Where the time of `RMILoss` goes, on {place}:']
    for key in ('shares', 'operators'):
        columns = {title: row[key] for title, row in profiled.items()}
        lines += ['', shares_table(columns)]
    return '\n'.join(lines)
