"""From a folder of auto-labels to its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmsa_mmseg.autolabel.calibration import check_target
from hmsa_mmseg.autolabel.meta import identity_of
from hmsa_mmseg.autolabel.statistics import all_thresholds
from hmsa_mmseg.datasets.autolabel_files import (
    CHECK_FOLDER,
    REPORT_HTML,
    REPORT_JSON,
)
from hmsa_mmseg.datasets.confidence import DEFAULT_THRESHOLD, is_kept
from hmsa_mmseg.utils import atomic_file, write_json
from hmsa_mmseg.utils.loading import read_config

from .label_counts import Counts, count_classes, count_labels
from .label_figures import (
    calibration_part,
    change_part,
    class_part,
    coverage_part,
    image_part,
    plain,
    truth_part,
    worst_part,
)
from .label_notes import find_notes, find_seen
from .label_page import label_page
from .label_set import LabelSet, read_label_set
from .label_truths import Truths
from .pages import progress

VERSION = 1


class ReportOptions(NamedTuple):
    """What a report is made from, beside the folder itself.

    As of ``tools/report.py``; ``labelled`` is its ``--check``.
    """

    config: str | None = None
    labelled: str | None = None
    coarse: str | None = None
    prior: str | None = None
    threshold: float = DEFAULT_THRESHOLD
    previous: Path | None = None
    workers: int = 2
    worst: int = 20
    low_coverage: float = 0.5
    target_precision: float = 0.5
    shows_progress: bool = True


def make_report(out: Path, options: ReportOptions) -> Path:
    """Write ``report.json`` and ``report.html`` of a folder of auto-labels.

    Returns:
        Path: Of the page.

    Raises:
        OSError: If a file that is needed is missing, or none can be written.
        ValueError: If something does not fit; the message names it.
        ImportError: If jinja2 is missing.
        RuntimeError: If a process that reads was killed.
    """
    out = Path(out)
    labels = read_label_set(out)
    data = _collect(labels, options)
    page = label_page(data, labels)
    write_json(out / REPORT_JSON, data, indent=None)
    with atomic_file(out / REPORT_HTML) as file:
        file.write(page.encode())
    return out / REPORT_HTML


def _collect(labels: LabelSet, options: ReportOptions) -> dict[str, Any]:
    """Count all that the report says: the content of ``report.json``."""
    # Before hours of reading.
    check_target(options.target_precision)
    thresholds = all_thresholds(options.threshold)
    classes = labels.classes
    coarse, prior, labelled = _find_truths(options, classes)
    previous, previous_note = _find_previous(labels, options)
    check = read_label_set(labels.folder / CHECK_FOLDER) if labelled else None
    for other in (previous, check):
        if other is not None and other.classes != classes:
            raise ValueError(
                f'{other.folder}: its {len(other.classes)} classes '
                f'{other.classes[:5]} are not the {len(classes)} of '
                f'{labels.folder}, {classes[:5]}'
            )

    def count(title: str, labels: LabelSet, *others: Any) -> Counts:
        total, shows = len(labels.lines), options.shows_progress
        with progress(title, total, shows) as update:
            return count_labels(
                *(labels, thresholds, options.threshold, *others),
                workers=options.workers,
                progress=update,
            )

    counts = count('labels', labels, coarse, previous)
    true_pixels = prior_data = None
    if prior is not None:
        with progress('prior', len(prior), options.shows_progress) as update:
            true_pixels, errors = count_classes(prior, options.workers, update)
        prior_data = dict(
            data_set=options.prior,
            labels=len(prior) - len(errors),
            damaged=errors,
        )
    settings = labels.meta['settings']
    data: dict[str, Any] = dict(
        version=VERSION,
        threshold=options.threshold,
        classes=classes,
        teacher=labels.meta.get('teacher'),
        trained_on=labels.meta.get('trained_on'),
        round=labels.meta.get('round'),
        settings={k: v for k, v in settings.items() if k != 'palette'},
        images=image_part(labels, counts),
        coverage=coverage_part(counts.pixels, thresholds),
        class_rows=class_part(
            labels, counts.pixels, options.threshold, true_pixels
        ),
        never_predicted=[
            name
            for name, count in zip(classes, counts.pixels.sum(1))
            if not count
        ],
        prior=prior_data,
        worst=worst_part(labels, counts, options.low_coverage, options.worst),
        coarse=None,
        check=None,
        changes=None,
    )
    if coarse is not None:
        data['coarse'] = truth_part(coarse, counts, thresholds)
    if previous is not None:
        data['changes'] = change_part(previous, counts, options.worst)
    if check is not None:
        checked = count('check', check, labelled)
        data['check'] = dict(
            truth_part(labelled, checked, thresholds),
            **calibration_part(check, checked, options.target_precision),
            pairs=image_part(check, checked),
            seen=find_seen(labels.folder, labelled, checked),
        )
        suggestion = data['check']['suggestion']
        if suggestion is not None:
            level = int(np.argmax(is_kept(suggestion['threshold'])))
            suggestion['coverage_of_all'] = data['coverage']['curve'][level]
    data['notes'] = list(find_notes(data, labels, check, previous_note))
    return plain(data)


def _find_truths(
    options: ReportOptions, classes: Sequence[str]
) -> list[Truths | None]:
    """Coarse labels, the prior, and true labels."""
    keys = (options.coarse, options.prior, options.labelled)
    wanted = [key for key in keys if key]
    if wanted and options.config is None:
        raise ValueError(
            f'{wanted[0]}: which config? Expected its path beside it '
            '(--config)'
        )
    cfg = read_config(options.config) if options.config is not None else None
    return [Truths(cfg, key, classes) if key else None for key in keys]


def _find_previous(
    labels: LabelSet, options: ReportOptions
) -> tuple[LabelSet | None, str | None]:
    """Find the round before, by the options or the metadata."""
    if options.previous is not None:
        return read_label_set(options.previous), None
    link = labels.meta.get('previous')
    if not link:
        return None, None
    folder = labels.folder / link['folder']
    try:
        previous = read_label_set(folder)
    except (OSError, ValueError) as error:
        return None, f'The round before is not compared with: {error}'
    if link.get('identity') not in (None, identity_of(previous.meta)):
        return previous, (
            f'{folder}: these are not the labels that the round before had '
            'when this one was made.'
        )
    return previous, None
