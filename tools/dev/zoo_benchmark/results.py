"""Findings of all jobs, put together by model and way to test."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hmsa_mmseg.zoo.metafile import published

from .jobs import Findings
from .models import CONFIGS, MODES, Model

# What is before GPUs and batch in a config's name.
_SHORT = re.compile(r'(.+?)_\d+xb\d+')


class Test(NamedTuple):
    """One way to test one model.

    Attributes:
        label (str): Of the model.
        mode (str): Key of :data:`models.MODES`.
        miou (float, optional): In percent.
        origin (str): ``evaluated``, ``published`` or empty.
        source (str): Of ``miou``: metafile or checkpoint.
        extra_data (str): What it was trained on beside the data set, as far
            as known.
        counts (dict): By size (``HxW``) ``gflops`` and ``live_gb``.
        times (dict): By size and type (``HxW float32``) what was timed, or a
            text that says why not.
    """

    label: str
    mode: str
    miou: float | None
    origin: str
    source: str
    extra_data: str
    counts: dict[str, dict]
    times: dict[str, Any]

    @property
    def title(self) -> str:
        """Of the way to test."""
        return MODES[self.mode][0]


def collect(
    jobs: Mapping[Model, Sequence[dict[str, Any]]], findings: Findings
) -> list[dict[str, Any]]:
    """Put together what is known of each model.

    Args:
        jobs (Mapping): Of each model, from ``jobs.plan``.
        findings (Findings): With all that is done.

    Returns:
        list[dict]: ``name``, ``label``, ``is_ours``, ``published`` (None or a
        dict) and ``findings``.
    """
    short = {
        model: match[1] if (match := _SHORT.match(model.name)) else model.name
        for model in jobs
    }
    labels = list(short.values())
    rows = []
    for model, of_model in jobs.items():
        known = published().get(model.name)
        found = [findings.read(job) for job in of_model]
        is_unique = labels.count(short[model]) == 1
        rows.append(
            dict(
                name=model.name,
                label=short[model] if is_unique else model.name,
                is_ours=CONFIGS in model.path.parents,
                published=known._asdict() if known else None,
                findings=[one for one in found if one is not None],
            )
        )
    return rows


def measured(row: Mapping[str, Any], part: str) -> Iterator[dict[str, Any]]:
    """Findings of one part of a model that did not fail."""
    for found in row['findings']:
        if found['part'] == part and 'measured' in found:
            yield found


def tests_of(row: Mapping[str, Any]) -> list[Test]:
    """All ways in which a model was counted, timed or scored."""
    counts: dict[str, dict] = {}
    times: dict[str, dict] = {}
    for found in measured(row, 'inference counts'):
        for size, modes in found['measured']['modes'].items():
            for mode, count in modes.items():
                counts.setdefault(mode, {})[size] = count
    for found in measured(row, 'inference'):
        what = found['title'].removeprefix('inference ')
        for mode, timing in found['measured']['modes'].items():
            times.setdefault(mode, {})[what] = timing
        for mode, tflop in found['measured']['left_out'].items():
            times.setdefault(mode, {})[what] = f'({tflop:.1f} TFLOP)'
        for mode in found['measured'].get('failed', ()):
            times.setdefault(mode, {})[what] = 'failed'
    scores = _scores(row)
    return [
        Test(
            row['label'],
            mode,
            *scores.get(mode, (None, '', '')),
            _extra_data(row),
            counts.get(mode, {}),
            times.get(mode, {}),
        )
        for mode in MODES
        if mode in counts or mode in times or mode in scores
    ]


def _scores(row: Mapping[str, Any]) -> dict[str, tuple[float, str, str]]:
    """mIoU, origin and source by mode; what was evaluated goes first."""
    scores: dict[str, tuple[float, str, str]] = {}
    known = row['published']
    if known and known['dataset'] == 'Cityscapes':
        for mode, key in dict(single='miou', ms_flip='miou_ms_flip').items():
            if known[key] is not None:
                scores[mode] = (known[key], 'published', known['source'])
    for found in measured(row, 'mIoU'):
        for mode, miou in found['measured']['miou'].items():
            weights = found['measured']['weights']
            scores[mode] = (miou, 'evaluated', weights)
    return scores


def _extra_data(row: Mapping[str, Any]) -> str:
    if row['published']:
        return row['published']['extra_data']
    if not row['is_ours']:
        return 'not known'
    return 'Mapillary Vistas' if 'mapillary-pre' in row['name'] else 'none'


def counted_sizes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sizes that were counted, ``HxW``, smallest first."""
    sizes = {
        size for row in rows for test in tests_of(row) for size in test.counts
    }
    return sorted(sizes, key=_pixels)


def best_timed(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Size and type at which most tests were timed, of those the largest."""
    number: dict[str, int] = {}
    for row in rows:
        for test in tests_of(row):
            for what, timing in test.times.items():
                number[what] = number.get(what, 0) + isinstance(timing, dict)
    if not number:
        return None
    return max(number, key=lambda what: (number[what], _pixels(what)))


def all_timed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sizes and types that were timed, smallest first."""
    found = {
        what: None
        for row in rows
        for test in tests_of(row)
        for what in test.times
    }
    return sorted(found, key=_pixels)


def _pixels(what: str) -> int:
    height, width = what.split()[0].split('x')
    return int(height) * int(width)


def errors_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What failed of a model, and why."""
    for found in row['findings']:
        if 'error' in found:
            yield found['title'], found['error']
        for mode, error in found.get('measured', {}).get('failed', {}).items():
            yield f'{found["title"]}, {MODES[mode][0]}', error
