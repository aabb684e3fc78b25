"""The page: tables, figure, and what the figures mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .accuracy import QUOTED
from .jobs import write_text
from .notes import cost_notes, time_notes, training_notes
from .plot import draw
from .results import (
    Test,
    all_timed,
    best_timed,
    counted_sizes,
    errors_of,
    measured,
    tests_of,
)


def write_report(out: Path, results: Mapping[str, Any]) -> list[Path]:
    """Write ``<device>.md``, ``.json`` and ``.png``.

    Args:
        out (Path): Folder, made if it is missing.
        results (Mapping): Of the run, with ``models`` from
            :func:`results.collect`.

    Returns:
        list[Path]: The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    stem = dict(cpu='cpu', cuda='gpu')[results['device']]
    files = [out / f'{stem}.{ending}' for ending in ('md', 'json', 'png')]
    has_plot = draw(files[2], results)
    write_text(files[0], page(results, stem, has_plot))
    write_text(files[1], json.dumps(results, indent=2) + '\n')
    return files if has_plot else files[:2]


def page(results: Mapping[str, Any], stem: str, has_plot: bool) -> str:
    """Markdown of a run."""
    rows, machine = results['models'], results['machine']
    place = machine['gpu'] or machine['cpu']
    versions = [f'{name} {text}' for name, text in results['versions'].items()]
    load = machine['load']
    parts = [
        '# Against the model zoo' + (' (GPU)' if stem == 'gpu' else ' (CPU)'),
        f'```shell\n{results["command"]}\n```',
        ', '.join(
            [
                place,
                f'{machine["cores"]} cores, {results["threads"]} threads',
                f'torch {machine["torch"]}',
                *versions,
                machine['date'],
            ]
        )
        + (f', load average {load:.1f} at the end' if load else '')
        + f'; all figures: [{stem}.json]({stem}.json).',
    ]
    if has_plot:
        parts.append(f'![mIoU against cost]({stem}.png)')
    parts += [
        '## Accuracy and cost of a test',
        _cost_table(results),
        cost_notes(results),
    ]
    if all_timed(rows):
        parts += [
            '## Time of a test',
            _time_table(results),
            time_notes(results),
        ]
    parts += [
        '## Training',
        _training_table(rows),
        training_notes(results),
    ]
    errors = [
        (row['label'], title, error)
        for row in rows
        for title, error in errors_of(row)
    ]
    if errors:
        parts += [
            '## What failed',
            _table(('model', 'measurement', 'error'), errors, ':::'),
        ]
    return '\n\n'.join(parts) + '\n'


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], sides: str
) -> str:
    """A Markdown table; ``sides`` has ``:`` for a column of text."""
    marks = [':--' if side == ':' else '--:' for side in sides]
    lines = [head, marks, *rows]
    return '\n'.join(
        f'| {" | ".join(cell.replace("|", "/") for cell in line)} |'
        for line in lines
    )


def _number(value: float | None) -> str:
    """Three digits, or a dash."""
    if value is None:
        return '-'
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f'{value:.{digits}f}'


def _cost_table(results: Mapping[str, Any]) -> str:
    rows, device = results['models'], results['device']
    sizes, timed = counted_sizes(rows), best_timed(rows)
    head = ['model', 'test', 'mIoU', '', 'extra data']
    for size in sizes:
        head += [f'GFLOP at {size}', 'GB']
    if timed is not None:
        head.append(f'{_unit(device)} at {timed}')
    lines = []
    for row in rows:
        tests = tests_of(row)
        if not tests:
            lines.append([row['label'], 'failed'])
        for test in tests:
            counts = [test.counts.get(size, {}) for size in sizes]
            lines.append(
                [
                    test.label,
                    test.title,
                    '-' if test.miou is None else f'{test.miou:.2f}',
                    f'{test.origin}, {test.source}' if test.origin else '',
                    test.extra_data,
                    *(
                        _number(count.get(key))
                        for count in counts
                        for key in ('gflops', 'live_gb')
                    ),
                    _time(test, timed, device),
                ][: len(head)]
            )
    for quoted in QUOTED:
        lines.append(
            [
                quoted.name,
                'hierarchical',
                f'{quoted.miou:.2f}'.rstrip('0'),
                f'quoted, {quoted.source}: {quoted.remark}',
                quoted.extra_data,
            ]
        )
    lines = [line + ['-'] * (len(head) - len(line)) for line in lines]
    return _table(head, lines, '::.::' + '.' * (len(head) - 5))


def _unit(device: str) -> str:
    return 'CPU s' if device == 'cpu' else 'ms'


def _time(test: Test, what: str | None, device: str) -> str:
    timing = test.times.get(what or '')
    if not isinstance(timing, Mapping):
        return timing or '-'
    if device == 'cpu':
        return _number(timing['cpu_ms'] / 1e3)
    return _number(timing['wall_ms'])


def _time_table(results: Mapping[str, Any]) -> str:
    rows, device = results['models'], results['device']
    timed = all_timed(rows)
    has_memory = device == 'cuda'
    head = ['model', 'test']
    for what in timed:
        head += [what, *(['GB'] if has_memory else [])]
    lines = []
    for row in rows:
        for test in tests_of(row):
            line = [test.label, test.title]
            for what in timed:
                line.append(_time(test, what, device))
                if has_memory:
                    timing = test.times.get(what)
                    is_there = isinstance(timing, Mapping)
                    line.append(
                        _number(timing['cuda_gb'] if is_there else None)
                    )
            lines.append(line)
    return _table(head, lines, '::' + '.' * (len(head) - 2))


def _training_table(rows: Sequence[Mapping[str, Any]]) -> str:
    timed = list(
        dict.fromkeys(
            found['title'].removeprefix('training ')
            for row in rows
            for found in measured(row, 'training')
        )
    )
    has_memory = any(
        found['measured']['cuda_gb'] is not None
        for row in rows
        for found in measured(row, 'training')
    )
    head = ['config', 'million parameters', 'crop', 'batch', 'GFLOP', 'GB']
    for what in timed:
        head.append(f'{"ms" if has_memory else "CPU s"}, {what}')
        head += ['GB on the GPU'] if has_memory else []
    head.append('zoo: GB')
    lines = []
    for row in rows:
        count = next(measured(row, 'inference counts'), {}).get('measured', {})
        step = next(measured(row, 'training counts'), {}).get('measured', {})
        parameters = count.get('parameters')
        line = [
            row['name'],
            _number(parameters and parameters / 1e6),
            'x'.join(map(str, step.get('crop', ['-']))),
            str(step.get('batch', '-')),
            _number(step.get('gflops')),
            _number(step.get('live_gb')),
        ]
        by_type = {
            found['title'].removeprefix('training '): found['measured']
            for found in measured(row, 'training')
        }
        for what in timed:
            timing = by_type.get(what)
            if has_memory:
                line.append(_number(timing and timing['wall_ms']))
                line.append(_number(timing and timing['cuda_gb']))
            else:
                line.append(_number(timing and timing['cpu_ms'] / 1e3))
        known = row['published'] or {}
        line.append(_number(known.get('memory_gb')))
        lines.append(line)
    return _table(head, lines, ':.' + '.' * (len(head) - 2))
