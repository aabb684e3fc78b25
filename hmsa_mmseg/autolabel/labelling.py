"""``label``: auto-labels of all images of this process, then the list of all.

The machine is that of :mod:`hmsa_mmseg.prediction`; here is what labels are
beyond predictions.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config

from hmsa_mmseg.datasets.autolabel_files import CHECK_FOLDER, round_folder
from hmsa_mmseg.datasets.confidence import check_threshold
from hmsa_mmseg.prediction.errors import PredictionError, Stopping
from hmsa_mmseg.prediction.machine import Machine, ahead, find_undone
from hmsa_mmseg.prediction.options import apply_options
from hmsa_mmseg.prediction.predictor import Predictor
from hmsa_mmseg.prediction.progress import Progress
from hmsa_mmseg.prediction.shards import Shard, find_device, read_shard
from hmsa_mmseg.utils.loading import read_config

from .config_datasets import PREFIX
from .label_folder import Part, build_meta, open_folder
from .label_images import check_names, find_images, load_image
from .label_store import LabelStore
from .merging import merge
from .pairs import PairFiles
from .teacher import describe_training


def run(
    args: argparse.Namespace,
    stopping: Stopping,
    make_report: Callable[..., Path],
) -> int:
    """Do what the command line asks for; return 1 if images are missing.

    ``make_report``, given the folder, and ``config``, ``labelled`` and
    ``threshold`` by name, writes a page and gives its path.
    """
    check_threshold(args.threshold)
    out = round_folder(args.out, args.round)
    if args.merge:
        return _end(args, out, make_report)
    shard = read_shard(args.shard)
    cfg = read_config(args.config, args.cfg_options)
    parts = _find_parts(args, cfg, out)
    failed = _label(args, cfg, parts, shard, stopping)
    # What follows waits for other processes, or is quickly done again.
    stopping.leave()
    failed = sum(shard.gather(failed))
    if shard.count > 1 and not shard.joins:
        print(
            f'share {shard} is done; when all are, the same command with '
            '--merge lists the labels and makes the report'
        )
        return 1 if failed else 0
    code = _end(args, out, make_report) if shard.index == 0 else 0
    # torchrun ends all as soon as one has failed: all wait for the first.
    return max(shard.gather(code))


def _find_parts(
    args: argparse.Namespace, cfg: Config, out: Path
) -> list[Part]:
    """List the images, and those to check the teacher with."""
    if not (args.check or PREFIX).startswith(PREFIX):
        raise PredictionError(
            f'--check {args.check}: expected a data set of the config, such '
            f'as {PREFIX}val_dataloader, whose labels the report reads'
        )
    items = find_images(args.images, Path(args.out), cfg, args.root)
    items = items[: args.limit]
    has_check = args.check is not None
    check_names(items, PairFiles(out, args.layout), has_check)
    parts = [Part('labels', out, args.images, items)]
    if has_check:
        folder = out / CHECK_FOLDER
        items = find_images(args.check, folder, cfg)
        check_names(items, PairFiles(folder, args.layout), has_check=False)
        parts.append(Part(CHECK_FOLDER, folder, args.check, items))
    return parts


def _label(
    args: argparse.Namespace,
    cfg: Config,
    parts: Sequence[Part],
    shard: Shard,
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
    predictor = Predictor(
        cfg, args.checkpoint, device, flip=args.flip, confidence=True
    )
    machine = Machine(predictor, stopping, args.writers, oom=args.oom)
    meta = build_meta(cfg, args, predictor)
    training = describe_training(args.checkpoint, cfg, args.saw)
    metas = [open_folder(args, part, meta, training) for part in parts]
    load = partial(load_image, pipeline=predictor.pipeline, allowed=args.allow)
    failed = 0
    with shard.alone_in(parts[0].folder):
        # Those to check the teacher with come first.
        for part, of_part in reversed([*zip(parts, metas)]):
            left = args.max_errors - failed
            store = LabelStore(part.folder, of_part, shard, left)
            own = shard.share(part.items)
            todo = own if args.overwrite else find_undone(own, store.is_done)
            if not args.ignore_space:
                store.expected = len(todo)
            title = part.title if shard.count == 1 else f'{part.title} {shard}'
            progress = Progress(title, len(todo), shard.shows)
            with progress, closing(store):
                loaded = ahead(load, todo, args.threads)
                machine.work(loaded, store.write, store.fail, progress)
            print(
                f'{title}: {store.written} labelled, {len(own) - len(todo)} '
                f'had been before, {store.failed} failed: {part.folder}'
            )
            failed += store.failed
    print(machine.clock)
    if args.timing:
        machine.clock.write(Path(args.timing))
    return failed


def _end(
    args: argparse.Namespace, out: Path, make_report: Callable[..., Path]
) -> int:
    """List all labels and make the report; return the exit status."""
    folders = [out / CHECK_FOLDER] if args.check is not None else []
    code = 0
    for folder in (*folders, out):
        try:
            merged = merge(folder)
        except FileNotFoundError as error:
            raise PredictionError(
                f'{error.filename}: there is no such file; expected a folder '
                'that images have been labelled to, with the same --round and '
                '--check'
            ) from error
        print(
            f'{folder}: {merged.labelled} labels, {merged.failed} images '
            f'failed, {len(merged.missing)} missing'
        )
        if merged.missing:
            names = ', '.join(merged.missing[:5])
            print(
                f'{folder}: {len(merged.missing)} images are not labelled: '
                f'{names}{" ..." if len(merged.missing) > 5 else ""}; the '
                'command that labels them goes on',
                file=sys.stderr,
            )
        code = max(code, 1 if merged.missing or merged.failed else 0)
    if args.no_report or merged.missing or not merged.labelled:
        return code
    try:
        with _config_file(args) as config:
            page = make_report(
                out,
                config=config,
                labelled=args.check,
                threshold=args.threshold,
            )
    except (OSError, ValueError, ImportError) as error:
        raise PredictionError(
            f'the labels in {out} are complete, the report is not: {error}; '
            'expected --no-report, or hmsa report'
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
