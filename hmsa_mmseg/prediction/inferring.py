"""``infer``: pictures and class numbers of images, folders and videos."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from mmseg.structures import SegDataSample

from hmsa_mmseg.utils.loading import find_test_set, read_config
from hmsa_mmseg.visualization import write_run
from hmsa_mmseg.visualization.colours import as_palette

from .errors import BadInputError, Stopping
from .inputs import Item, find_items
from .journal import Journal
from .loading import Loaded
from .machine import Machine, ahead, find_undone
from .options import (
    add_prediction,
    add_running,
    apply_options,
    positive,
    read_label_ids,
)
from .predictor import Predictor
from .products import DEFAULT_SAVES, OF_LOGITS, RECORDS, SAVES, Products
from .progress import Progress
from .shards import find_device, read_shard
from .videos import Videos, count_frames


def parse_args(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', help='checkpoint file path')
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='input',
        help='image, video, folder, or list of paths (.txt)',
    )
    parser.add_argument('--out', required=True, help='folder of the results')
    parser.add_argument(
        '--save',
        nargs='+',
        choices=tuple(SAVES),
        default=DEFAULT_SAVES,
        help=f'what to write. Default: {" ".join(DEFAULT_SAVES)}',
    )
    add_prediction(parser).add_argument(
        '--label-ids',
        action='store_true',
        help="write classes as the data set's own label files number them, "
        'as the Cityscapes benchmark takes them',
    )
    group = add_running(parser)
    group.add_argument(
        '--batch-size',
        type=positive,
        default=1,
        help='images of one size that run at once. Default: 1',
    )
    group.add_argument(
        '--on-error',
        choices=('stop', 'skip'),
        default='stop',
        help='what to do with a damaged image or video. Skipped ones are '
        'listed in the end. Default: stop',
    )
    group.add_argument(
        '--frames',
        action='store_true',
        help='write overlays of a video as pictures, not as a video',
    )
    group.add_argument(
        '--video-format',
        choices=('mp4', 'avi'),
        default='mp4',
        help='of overlays of videos: MPEG-4 or Motion JPEG. Default: mp4',
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace, stopping: Stopping) -> int:
    """Do what the command line asks for; return 1 if files were skipped."""
    shard = read_shard(args.shard)
    items = shard.share(find_items(args.inputs)[: args.limit])
    job = Inferring(args, stopping)
    with shard.alone_in(args.out):
        if 'report' in args.save and shard.index == 0:
            job.describe()
        counts = job.do(items, shard.shows)
    # What follows waits for other processes.
    stopping.leave()
    skipped = [*chain.from_iterable(shard.gather(job.skipped))]
    done, finished = map(sum, zip(*shard.gather(counts)))
    if shard.shows:
        if 'report' in args.save:
            job.journal.drop_foreign_records()
        share = '' if shard.joins or shard.count == 1 else f'share {shard}: '
        print(
            f'{share}{done} done, {finished} had been finished before, '
            f'{len(skipped)} skipped: {args.out}'
        )
        for line in skipped:
            print(f'skipped: {line}', file=sys.stderr)
    return 1 if skipped else 0


class Inferring:
    """What all images and videos of a run have in common.

    Attributes:
        skipped (list[str]): What could not be done, and why.
    """

    def __init__(self, args: argparse.Namespace, stopping: Stopping) -> None:
        self.args = args
        self.skipped: list[str] = []
        self.cfg = read_config(args.config, args.cfg_options)
        apply_options(self.cfg, args)
        self.predictor = Predictor(
            self.cfg,
            args.checkpoint,
            find_device(args.device),
            flip=args.flip,
            confidence=bool({*args.save} & {*OF_LOGITS}),
        )
        if 'attention' in args.save:
            self.predictor.check_attention()
        classes = self.predictor.classes
        label_ids = None
        if args.label_ids:
            label_ids = read_label_ids(self.cfg, len(classes))
        self.products = Products(
            args.save,
            classes,
            as_palette(self.predictor.palette, len(classes)),
            self.predictor.scales,
            label_ids,
        )
        settings = self.predictor.settings()
        self.journal = Journal(
            Path(args.out), dict(settings, label_ids=args.label_ids)
        )
        self.journal.open(
            args.overwrite,
            config=os.path.abspath(args.config),
            checkpoint=os.path.abspath(args.checkpoint),
        )
        self.machine = Machine(
            self.predictor, stopping, args.writers, args.batch_size
        )
        self.videos = Videos(args, self.journal, self.products, self.machine)

    def describe(self) -> None:
        """Tell hmsa report about the run."""
        dataset = find_test_set(self.cfg).get('type')
        write_run(
            self.args.out,
            dict(
                config=os.path.basename(self.args.config),
                checkpoint=os.path.abspath(self.args.checkpoint),
                model=type(self.predictor.model).__name__,
                scales=self.predictor.scales,
                dataset=getattr(dataset, '__name__', dataset),
                date=datetime.datetime.now().isoformat(' ', 'seconds'),
            ),
        )

    def do(self, items: Sequence[Item], shows: bool) -> tuple[int, int]:
        """Predict what is not finished; return how many, and how many are."""
        todo = [*items]
        if not self.args.overwrite:
            todo = find_undone(items, self._is_done)
        total = sum(count_frames(i.path) if i.is_video else 1 for i in todo)
        images = [item for item in todo if not item.is_video]
        with Progress('infer', total, shows) as progress:
            loaded = ahead(
                lambda item: self.predictor.pipeline.load(item.path),
                images,
                self.args.threads,
            )
            self.machine.work(loaded, self._write, self._fail, progress)
            for item in todo:
                if item.is_video:
                    try:
                        self.videos.do(item, progress)
                    except BadInputError as error:
                        self._fail(item, error)
        return len(todo) - len(self.skipped), len(items) - len(todo)

    def _is_done(self, item: Item) -> bool:
        """Whether all files of an image or a video are there and good."""
        if item.is_video:
            return self.videos.is_done(item)
        wanted = {*self.products.files(item.name)}
        if 'report' in self.args.save:
            # Which pictures there are is known only when they are drawn.
            recorded = self.journal.recorded(item)
            wanted |= {f for f in recorded if f.startswith(f'{RECORDS}/')}
        return wanted <= self.journal.files(item)

    def _write(
        self, item: Item, image: Loaded, result: SegDataSample, mode: str
    ) -> None:
        kept = self.journal.clear(item)
        files = self.products.write(
            self.journal.out, item.name, image.image, result
        )
        self.journal.write(item, image.source, kept.union(files))

    def _fail(self, item: Item, error: BadInputError) -> None:
        if self.args.on_error == 'stop':
            raise error
        self.skipped.append(str(error))
