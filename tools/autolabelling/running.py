"""A run: all images of this process, then the list of all."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from autolabel_reporting.run import ReportOptions, make_report
from mmengine.config import Config

from hmsa_mmseg.autolabel.config_datasets import PREFIX
from hmsa_mmseg.autolabel.merging import Merged, files_of, merge
from hmsa_mmseg.autolabel.meta import identities_in, identity_of
from hmsa_mmseg.autolabel.pairs import PairFiles
from hmsa_mmseg.autolabel.teacher import Training, describe_training
from hmsa_mmseg.datasets.autolabel_files import CHECK_FOLDER, round_folder
from hmsa_mmseg.datasets.confidence import check_threshold
from hmsa_mmseg.prediction.errors import InferError
from hmsa_mmseg.prediction.inputs import Item
from hmsa_mmseg.prediction.model_options import apply_options
from hmsa_mmseg.prediction.pipeline import Pipeline
from hmsa_mmseg.prediction.predicting import Predictor
from hmsa_mmseg.prediction.ranks import find_device, gather, join_group
from hmsa_mmseg.utils.loading import read_config

from .disk import SpaceWatch
from .folder import prepare_folder
from .identity import build_meta, label_ids_of
from .images import ImageLoader
from .inputs import check_names, find_images
from .job import Job, find_undone
from .labelling import Labeller
from .progress import Clock, Progress
from .results import Results
from .shards import Shard, read_shard
from .stopping import Stopping


class Part(NamedTuple):
    """Images that are labelled into one folder.

    Attributes:
        title (str): For progress.
        folder (Path): Of the labels.
        source (str): Where the images are from.
        items (list[Item]): All of them, sorted by name.
    """

    title: str
    folder: Path
    source: str
    items: list[Item]


def run(args: argparse.Namespace, stopping: Stopping) -> int:
    """Do what the command line asks for.

    Args:
        args (Namespace): Of the command line.
        stopping (Stopping): Takes signals.

    Returns:
        int: 0, or 1 if images could not be labelled or are missing.

    Raises:
        Stopped: If a signal has asked for it.
        InferError: If it cannot be done.
        OSError: If a file cannot be read or written.
        ValueError: If config or checkpoint cannot be used.
    """
    check_threshold(args.threshold)
    out = round_folder(args.out, args.round)
    if args.merge:
        return _end(args, out)
    shard = read_shard(args.shard)
    cfg = read_config(args.config, args.cfg_options)
    parts = _find_parts(args, cfg, out)
    clock = Clock()
    failed = _label(args, cfg, parts, shard, clock, stopping)
    print(clock)
    if args.timing:
        clock.write(Path(args.timing))
    # What follows waits for other processes, or is quickly done again.
    stopping.leave()
    group = join_group(shard.count) if shard.joins else None
    failed = sum(gather([failed], group))
    if shard.count > 1 and group is None:
        print(
            f'share {shard} is done; when all are, the same command with '
            '--merge lists the labels and makes the report'
        )
        return 1 if failed else 0
    code = _end(args, out) if shard.index == 0 else 0
    # torchrun ends all as soon as one has failed: all wait for the first.
    return max(gather([code], group))


def _find_parts(
    args: argparse.Namespace, cfg: Config, out: Path
) -> list[Part]:
    """List the images; those to check the teacher with come first."""
    if not (args.check or PREFIX).startswith(PREFIX):
        raise InferError(
            f'--check {args.check}: expected a data set of the config, such '
            f'as {PREFIX}val_dataloader, whose labels the report reads'
        )
    files = PairFiles(out, args.layout)
    items = find_images(args.images, Path(args.out), cfg, args.root)
    items = items[: args.limit]
    check_names(items, files, has_check=args.check is not None)
    parts = [Part('labels', out, args.images, items)]
    if args.check is not None:
        folder = out / CHECK_FOLDER
        items = find_images(args.check, folder, cfg)
        check_names(items, PairFiles(folder, args.layout), has_check=False)
        parts.insert(0, Part(CHECK_FOLDER, folder, args.check, items))
    return parts


def _label(
    args: argparse.Namespace,
    cfg: Config,
    parts: Sequence[Part],
    shard: Shard,
    clock: Clock,
    stopping: Stopping,
) -> int:
    """Label the share of this process; return how many images failed."""
    apply_options(cfg, args)
    # For looking at a model; it takes memory.
    cfg.model.test_cfg.pop('scale_maps', None)
    # The same bytes each time; by default a GPU may choose by the clock.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    device = find_device(args.device)
    # First: it changes the config where that is old.
    pipeline = Pipeline(cfg)
    predictor = Predictor(
        cfg, args.checkpoint, device, flip=args.flip, confidence=True
    )
    label_format, label_ids = label_ids_of(cfg, predictor, args.label_format)
    meta = build_meta(cfg, args, predictor, label_format, label_ids)
    training = describe_training(args.checkpoint, cfg, args.teacher_saw)
    job = Job(
        ImageLoader(pipeline, args.allow),
        Labeller(predictor, device, cfg, args.oom),
        args.threads,
        args.writers,
        clock,
        stopping,
    )
    prepared = [
        _prepare(args, part, meta, training, shard) for part in reversed(parts)
    ]
    failed = 0
    for part, of_part in zip(parts, reversed(prepared)):
        failed += _do(args, part, of_part, label_ids, job, shard, failed)
    return failed


def _prepare(
    args: argparse.Namespace,
    part: Part,
    meta: dict[str, Any],
    training: Training,
    shard: Shard,
) -> dict[str, Any]:
    """Claim the folder of a part; return its metadata."""
    meta = {
        **meta,
        'trained_on': training.sets,
        'trained_on_note': training.note,
        'images': dict(source=part.source, count=len(part.items)),
    }
    own = part.items[shard.index :: shard.count]
    return prepare_folder(
        *(part.folder, meta, part.items, own, training),
        overwrite=args.overwrite,
        allow_mixed=args.allow_mixed,
    )


def _do(
    args: argparse.Namespace,
    part: Part,
    meta: dict[str, Any],
    label_ids: np.ndarray,
    job: Job,
    shard: Shard,
    failed: int,
) -> int:
    """Label the images of a part; return how many failed."""
    own = part.items[shard.index :: shard.count]
    files = files_of(part.folder, meta)
    todo = own
    if not args.overwrite:
        todo = find_undone(own, files, identities_in(meta), job.loader)
    title = part.title if shard.count == 1 else f'{part.title} {shard}'
    progress = Progress(title, len(todo), shard.shows)
    results = Results(
        files,
        identity_of(meta),
        label_ids,
        shard,
        args.max_errors - failed,
        SpaceWatch(part.folder, len(todo), shard.count, args.ignore_space),
        progress,
    )
    try:
        job.work(todo, results)
    finally:
        progress.close()
    print(
        f'{title}: {results.written} labelled, {len(own) - len(todo)} had '
        f'been before, {results.failed} failed: {part.folder}'
    )
    return results.failed


def _end(args: argparse.Namespace, out: Path) -> int:
    """List all labels and make the report; return the exit status."""
    folders = [out / CHECK_FOLDER] if args.check is not None else []
    code = 0
    merged = None
    for folder in (*folders, out):
        try:
            merged = merge(folder)
        except FileNotFoundError as error:
            raise InferError(
                f'{error.filename}: there is no such file; expected a folder '
                'that images have been labelled to, with the same --round and '
                '--check'
            ) from error
        code = max(code, _say(folder, merged))
    if args.no_report or merged.missing or not merged.labelled:
        return code
    try:
        with _config_file(args) as config:
            options = ReportOptions(
                config=config, labelled=args.check, threshold=args.threshold
            )
            page = make_report(out, options)
    except (OSError, ValueError, ImportError) as error:
        raise InferError(
            f'the labels in {out} are complete, the report is not: {error}; '
            'expected --no-report, or tools/autolabel_report.py'
        ) from error
    print(f'report: {page}')
    return code


@contextmanager
def _config_file(args: argparse.Namespace) -> Iterator[str]:
    """The config as a file, also with what was changed in it."""
    if not args.cfg_options:
        yield args.config
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, os.path.basename(args.config))
        read_config(args.config, args.cfg_options).dump(path)
        yield path


def _say(folder: Path, merged: Merged) -> int:
    print(
        f'{folder}: {merged.labelled} labels, {merged.failed} images failed, '
        f'{len(merged.missing)} missing'
    )
    if merged.missing:
        names = ', '.join(merged.missing[:5])
        print(
            f'{folder}: {len(merged.missing)} images are not labelled: '
            f'{names}{" ..." if len(merged.missing) > 5 else ""}; the command '
            'that labels them goes on',
            file=sys.stderr,
        )
    return 1 if merged.missing or merged.failed else 0
