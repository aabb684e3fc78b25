"""All that a report on auto-labels says, collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from hmsa_mmseg.autolabel.calibration import check_target
from hmsa_mmseg.autolabel.meta import identity_of
from hmsa_mmseg.autolabel.report_counts import (
    Counts,
    count_classes,
    count_tree,
)
from hmsa_mmseg.autolabel.report_data import (
    change_part,
    class_part,
    coverage_part,
    image_part,
    worst_part,
)
from hmsa_mmseg.autolabel.report_tree import Tree, read_tree
from hmsa_mmseg.autolabel.report_truth_data import (
    calibration_part,
    truth_part,
)
from hmsa_mmseg.autolabel.report_truths import Truths
from hmsa_mmseg.autolabel.statistics import all_thresholds, is_kept
from hmsa_mmseg.datasets.autolabel_files import CHECK_FOLDER
from hmsa_mmseg.prediction.progress import Progress
from hmsa_mmseg.utils.loading import read_config

from .notes import find_notes, find_seen
from .options import ReportOptions

VERSION = 1


def collect(tree: Tree, options: ReportOptions) -> dict[str, Any]:
    """Count all that the report says.

    Args:
        tree (Tree): The folder.
        options (ReportOptions): What to compare with.

    Returns:
        dict: The content of ``report.json``.

    Raises:
        OSError, RuntimeError, ValueError: As :func:`.run.make_report`.
    """
    # Before hours of reading.
    check_target(options.target_precision)
    thresholds = all_thresholds(options.threshold)
    classes = tree.classes
    cfg = _config(options)
    coarse, prior, labelled = (
        Truths(cfg, key, classes) if key else None
        for key in (options.coarse, options.prior, options.labelled)
    )
    previous, previous_note = _previous(tree, options)
    check = read_tree(tree.folder / CHECK_FOLDER) if labelled else None
    _check_same_classes(tree, previous, check)
    counts = _counted(*('labels', tree, options, thresholds, coarse, previous))
    true_pixels, prior_errors = None, []
    if prior is not None:
        with _progress('prior', len(prior), options) as update:
            true_pixels, prior_errors = count_classes(
                prior, options.workers, update
            )
    checked = None
    if check is not None:
        checked = _counted('check', check, options, thresholds, labelled)
    settings = tree.meta['settings']
    data: dict[str, Any] = dict(
        version=VERSION,
        threshold=options.threshold,
        classes=list(classes),
        teacher=tree.meta.get('teacher'),
        trained_on=tree.meta.get('trained_on'),
        round=tree.meta.get('round'),
        settings={k: v for k, v in settings.items() if k != 'palette'},
        images=image_part(tree, counts),
        coverage=coverage_part(counts.pixels, thresholds),
        class_rows=class_part(
            counts.pixels, classes, options.threshold, true_pixels
        ),
        never_predicted=[
            name
            for name, count in zip(classes, counts.pixels.sum(1))
            if not count
        ],
        prior=options.prior
        and dict(
            data_set=options.prior,
            labels=len(prior) - len(prior_errors),
            damaged=prior_errors,
        ),
        worst=worst_part(
            *(tree, counts, options.threshold),
            *(options.low_coverage, options.worst),
        ),
        coarse=None
        if coarse is None
        else truth_part(coarse, counts, classes, thresholds),
        check=None,
        changes=previous
        and change_part(previous, counts, classes, options.worst),
    )
    if checked is not None:
        data['check'] = dict(
            truth_part(labelled, checked, classes, thresholds),
            **calibration_part(
                *(checked, options.target_precision),
                check.has_confidence,
            ),
            pairs=image_part(check, checked),
            seen=find_seen(tree.folder, labelled, checked),
        )
        _add_whole_coverage(data)
    if not tree.has_confidence:
        for row in data['class_rows']:
            row.update(mean_confidence=None, histogram=None)
    data['notes'] = find_notes(data, tree, check, previous_note)
    return data


def _counted(
    title: str,
    tree: Tree,
    options: ReportOptions,
    thresholds: Sequence[float],
    truths: Truths | None = None,
    previous: Tree | None = None,
) -> Counts:
    with _progress(title, len(tree.lines), options) as update:
        return count_tree(
            *(tree, thresholds, options.threshold, truths, previous),
            *(options.workers, update),
        )


@contextmanager
def _progress(
    title: str, total: int, options: ReportOptions
) -> Iterator[Callable[[int], None]]:
    """Show how far the reading is; takes the number of images done."""
    progress = Progress(title, total, options.shows_progress)

    def update(count: int) -> None:
        for _ in range(count):
            progress.update()

    try:
        yield update
    finally:
        progress.close()


def _config(options: ReportOptions) -> Config | None:
    keys = (options.coarse, options.prior, options.labelled)
    if options.config is not None:
        return read_config(options.config)
    for key in keys:
        if key:
            raise ValueError(
                f'{key}: which config? Expected its path beside it (--config)'
            )
    return None


def _previous(
    tree: Tree, options: ReportOptions
) -> tuple[Tree | None, str | None]:
    """Find the round before, by the options or the metadata."""
    if options.previous is not None:
        return read_tree(Path(options.previous)), None
    link = tree.meta.get('previous')
    if not link:
        return None, None
    folder = tree.folder / link['folder']
    try:
        previous = read_tree(folder)
    except (OSError, ValueError) as error:
        return None, f'The round before is not compared with: {error}'
    if link.get('identity') not in (None, identity_of(previous.meta)):
        return previous, (
            f'{folder}: these are not the labels that the round before had '
            'when this one was made.'
        )
    return previous, None


def _check_same_classes(tree: Tree, *others: Tree | None) -> None:
    for other in others:
        if other is not None and other.classes != tree.classes:
            raise ValueError(
                f'{other.folder}: its {len(other.classes)} classes '
                f'{other.classes[:5]} are not the {len(tree.classes)} of '
                f'{tree.folder}, {tree.classes[:5]}'
            )


def _add_whole_coverage(data: dict[str, Any]) -> None:
    """Say what the suggested threshold keeps of all auto-labels."""
    suggestion = data['check']['suggestion']
    if suggestion is not None:
        level = int(np.argmax(is_kept(suggestion['threshold'])))
        suggestion['coverage_of_all'] = data['coverage']['curve'][level]
