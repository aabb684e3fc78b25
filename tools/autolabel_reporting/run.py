"""From a folder of auto-labels to its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from hmsa_mmseg.autolabel.layout import (
    CHECK_FOLDER,
    REPORT_HTML,
    REPORT_JSON,
)
from hmsa_mmseg.autolabel.meta import identity_of
from hmsa_mmseg.autolabel.report_counts import (
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
from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.loading import read_config

from .notes import find_notes, find_seen
from .page import build_page
from .progress import Progress
from .sheet import Sample, draw_samples

VERSION = 1
#: The authors' released recipe (NVIDIA/semantic-segmentation,
#: scripts/train_cityscapes_sota.yml: ``custom_coarse_prob``).
DEFAULT_THRESHOLD = 0.5


class ReportOptions(NamedTuple):
    """What a report is made from, beside the folder itself.

    Attributes:
        config (str | None): Path of the config whose data sets are meant
            below; None if there are none.
        labelled (str | None): ``config:<loader>``: data set with true labels
            whose auto-labels are in ``OUT/check``.
        coarse (str | None): Likewise, of coarse labels of the same images.
        prior (str | None): Likewise, of the true labels whose shares of
            classes are compared with.
        threshold (float): Of confidence, 0 to 1.
        previous (Path | None): Folder of the labels of the round before;
            None: what the metadata name, if they do.
        workers (int): Processes that read; 0: this one.
        worst (int): So many images have pictures.
        low_coverage (float): Images that keep a smaller part of their pixels
            are listed.
        target_precision (float): For the suggested threshold: of the pixels
            that it lets in.
        shows_progress (bool): Whether a line of progress is written.
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

    Args:
        out (Path): The folder.
        options (ReportOptions): What to compare with.

    Returns:
        Path: Of the page.

    Raises:
        OSError: If a file that is needed is missing, or none can be written.
        ValueError: If something does not fit; the message names it.
        ImportError: If jinja2 is missing.
        RuntimeError: If a process that reads was killed.
    """
    out = Path(out)
    tree = read_tree(out)
    data = collect(tree, options)
    samples: list[Sample] = draw_samples(
        tree, data['worst']['worst'], options.threshold
    )
    page = build_page(data, tree, samples)
    text = json.dumps(data, allow_nan=False)
    with atomic_file(out / REPORT_JSON) as file:
        file.write((text + '\n').encode())
    with atomic_file(out / REPORT_HTML) as file:
        file.write(page.encode())
    return out / REPORT_HTML


def collect(tree: Tree, options: ReportOptions) -> dict[str, Any]:
    """Count all that the report says.

    Args:
        tree (Tree): The folder.
        options (ReportOptions): What to compare with.

    Returns:
        dict: The content of ``report.json``.
    """
    classes = tree.classes
    cfg = _config(options)
    coarse, prior, labelled = (
        Truths(cfg, key, classes) if key else None
        for key in (options.coarse, options.prior, options.labelled)
    )
    previous, previous_note = _previous(tree, options)
    check = read_tree(tree.folder / CHECK_FOLDER) if labelled else None
    _check_same_classes(tree, previous, check)
    thresholds = all_thresholds(options.threshold)
    with Progress(options.shows_progress) as progress:
        counts = count_tree(
            tree,
            thresholds,
            options.threshold,
            coarse,
            previous,
            options.workers,
            progress.start('labels', len(tree.lines)),
        )
        true_pixels, prior_errors = None, []
        if prior is not None:
            true_pixels, prior_errors = count_classes(
                prior, options.workers, progress.start('prior', len(prior))
            )
        checked = None
        if check is not None:
            checked = count_tree(
                check,
                thresholds,
                options.threshold,
                labelled,
                workers=options.workers,
                progress=progress.start('check', len(check.lines)),
            )
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
        coverage=coverage_part(counts.pixels, classes, thresholds),
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
        coarse=coarse and truth_part(coarse, counts, classes, thresholds),
        check=None,
        changes=previous
        and change_part(previous, counts, classes, options.worst),
    )
    if checked is not None:
        data['check'] = dict(
            truth_part(labelled, checked, classes, thresholds),
            **calibration_part(checked, classes, options.target_precision),
            pairs=image_part(check, checked),
            seen=find_seen(tree.folder, labelled, checked),
        )
        _add_whole_coverage(data)
    data['notes'] = find_notes(data, tree, check, previous_note)
    return data


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
