"""A run: all images and videos of this process, one after the other."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from hmsa_mmseg.utils.loading import find_test_set, read_config
from hmsa_mmseg.visualization import write_run

from . import images, videos
from .context import Run
from .errors import InferError
from .failures import Failures
from .finished import Finished
from .inputs import Item, find_items
from .label_ids import read_label_ids
from .model_options import apply_options
from .pipeline import Pipeline
from .predicting import Predictor
from .products import OF_LOGITS, Products
from .progress import Progress
from .ranks import find_device, gather, join_group, read_ranks
from .settings import check_folder, digest_of, read_settings
from .video_files import count_frames


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Args:
        args (Namespace): Of the command line.

    Returns:
        int: 0, or 1 if files were skipped.

    Raises:
        InferError: If it cannot be done.
        OSError: If a file cannot be read or written.
        ValueError: If config or checkpoint cannot be used.
    """
    rank, world_size = read_ranks()
    items = find_items(args.inputs, args.out)[: args.limit]
    job = _prepare(args, shows=rank == 0)
    group = join_group(world_size)
    counts = _do(job, items[rank::world_size])
    listed = gather(job.failures.listed, group)
    finished, done = map(sum, zip(*gather([counts], group)))
    if rank == 0:
        if 'report' in args.save:
            job.finished.drop_foreign_records()
        print(
            f'{done} done, {finished} had been finished before, '
            f'{len(listed)} skipped: {args.out}'
        )
        for line in listed:
            print(f'skipped: {line}', file=sys.stderr)
    return 1 if listed else 0


def _prepare(args: argparse.Namespace, shows: bool) -> Run:
    """Load the model and look at the folder of the results.

    One process of several shows what is done, and describes the run.
    """
    out = Path(args.out)
    cfg = read_config(args.config, args.cfg_options)
    apply_options(cfg, args)
    pipeline = Pipeline(cfg)
    predictor = Predictor(
        cfg,
        args.checkpoint,
        find_device(args.device),
        flip=args.flip,
        confidence=bool({*args.save} & {*OF_LOGITS}),
    )
    if 'attention' in args.save:
        predictor.check_attention()
    label_ids = None
    if args.label_ids:
        label_ids = read_label_ids(cfg, len(predictor.classes))
    settings = read_settings(cfg, args, predictor)
    check_folder(
        out,
        settings,
        args.overwrite,
        config=os.path.abspath(args.config),
        checkpoint=os.path.abspath(args.checkpoint),
    )
    if 'report' in args.save and shows:
        _describe(cfg, args, predictor)
    progress = Progress(shows)
    return Run(
        out=out,
        pipeline=pipeline,
        predictor=predictor,
        products=Products(
            args.save,
            predictor.classes,
            predictor.palette,
            predictor.scales,
            label_ids,
        ),
        finished=Finished(out, digest_of(settings)),
        failures=Failures(args.on_error == 'skip', progress),
        progress=progress,
        batch_size=args.batch_size,
        threads=args.threads,
        overwrite=args.overwrite,
        frames=args.frames,
        video_format=args.video_format,
    )


def _describe(
    cfg: Config, args: argparse.Namespace, predictor: Predictor
) -> None:
    """Tell tools/report.py about the run."""
    dataset = find_test_set(cfg).get('type')
    write_run(
        args.out,
        dict(
            config=os.path.basename(args.config),
            checkpoint=os.path.abspath(args.checkpoint),
            model=type(predictor.model).__name__,
            scales=predictor.scales,
            dataset=getattr(dataset, '__name__', dataset),
            date=datetime.datetime.now().isoformat(' ', 'seconds'),
        ),
    )


def _do(job: Run, items: Sequence[Item]) -> tuple[int, int]:
    """Do all items; return how many were finished before, and are now."""
    todo = [
        item
        for item in items
        if job.overwrite
        or not (videos if item.is_video else images).is_finished(job, item)
    ]
    job.progress.start(
        sum(count_frames(i.path) if i.is_video else 1 for i in todo)
    )
    try:
        done = images.do_images(job, [i for i in todo if not i.is_video])
        for item in todo:
            if not item.is_video:
                continue
            try:
                videos.do_video(job, item)
                done += 1
            except InferError as error:
                job.failures.add(error)
    finally:
        job.progress.close()
    return len(items) - len(todo), done
