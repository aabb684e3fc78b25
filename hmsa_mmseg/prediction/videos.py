"""Videos: frames are images; overlays are a video again.

The latter is made in the end: until then the classes of each frame are kept
in ``DIR/finished/<name>/``, which also tells a run that goes on which frames
are done.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmseg.structures import SegDataSample
from PIL import Image

from hmsa_mmseg.utils.files import atomic_file, write_json

from .errors import BadInputError
from .inputs import Item
from .journal import Journal, Source, read_json, source_of
from .loading import Loaded
from .machine import Machine
from .products import (
    FINISHED,
    SAVES,
    Products,
    classes_of,
    write_classes,
)
from .progress import Progress

_HEADER = 'video.json'
# Codecs that every OpenCV has: MPEG-4 with FFmpeg, Motion JPEG without.
_CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG'}


class Videos:
    """Predicts videos, with what else a run predicts images with."""

    def __init__(
        self,
        args: argparse.Namespace,
        journal: Journal,
        products: Products,
        machine: Machine,
    ) -> None:
        self.overwrite = args.overwrite
        self.journal = journal
        self.out = journal.out
        self.machine = machine
        self.products = self.of_frames = products
        # Of videos of overlays; None: they are pictures.
        self.suffix = None
        if 'overlay' in args.save and not args.frames:
            self.suffix = f'.{args.video_format}'
            saves = [save for save in args.save if save != 'overlay']
            self.of_frames = replace(products, saves=saves)

    def is_done(self, item: Item) -> bool:
        """Whether all files of a video are there and good."""
        good = self.journal.files(item)
        if good != self.journal.recorded(item):
            return False
        wanted = self.of_frames.files(f'{item.name}/000000')
        if self.suffix is not None:
            wanted.append(self._overlay(item))
        return good.issuperset(wanted)

    def do(self, item: Item, progress: Progress) -> None:
        """Predict a video and write what is asked for.

        Raises:
            BadInputError: If it cannot be read to its end or cannot be
                predicted. In the former case there are results of the frames
                that can be read.
        """
        with _open(item.path) as reader:
            if self.suffix is not None:
                _check_encoding(item.path, reader)
            source = source_of(item.path)
            files = self.journal.clear(item)
            folder = self._start(item, source)
            count = self._do_frames(item, reader, folder, progress)
            expected = reader.frame_cnt
        for index in range(count):
            files.update(self.of_frames.files(f'{item.name}/{index:06d}'))
        if self.suffix is not None:
            files.add(self._overlay(item))
            self._do_overlays(item, folder, count)
        self.journal.write(item, source, files)
        shutil.rmtree(folder)
        if count < expected:
            raise BadInputError(
                'truncated',
                f'{item.path}: {count} frames can be read, its header '
                f'promises {expected}; there are results of those {count}',
            )

    def _overlay(self, item: Item) -> str:
        return f'overlay/{item.name}{self.suffix}'

    def _start(self, item: Item, source: Source) -> Path:
        """Go on with the frames of an interrupted run, if they are good."""
        folder = self.out / FINISHED / item.name
        saves = [save for save in SAVES if save in self.of_frames.saves]
        header = dict(self.journal.header(source), saves=saves)
        if self.overwrite or read_json(folder / _HEADER) != header:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / _HEADER, header, indent=None)
        return folder

    def _do_frames(
        self,
        item: Item,
        reader: mmcv.VideoReader,
        folder: Path,
        progress: Progress,
    ) -> int:
        """Predict the frames that are not done; return how many there are."""
        count = 0
        load = self.machine.predictor.pipeline.frame

        def undone() -> Iterator[tuple[int, Loaded | BadInputError]]:
            nonlocal count
            for index, frame in enumerate(reader):
                count = index + 1
                if (folder / f'{index:06d}.png').exists():
                    progress.update()
                    continue
                try:
                    yield index, load(item.path, frame)
                except BadInputError as error:
                    yield index, error

        def write(
            index: int, image: Loaded, result: SegDataSample, mode: str
        ) -> None:
            name = f'{item.name}/{index:06d}'
            self.of_frames.write(self.out, name, image.image, result)
            # The last: now the frame is done.
            write_classes(folder / f'{index:06d}.png', classes_of(result))

        def fail(index: int, error: BadInputError) -> None:
            raise error  # a video is whole or not done

        self.machine.work(undone(), write, fail, progress)
        if not count:
            raise BadInputError(
                'undecodable', f'{item.path}: no frame can be read'
            )
        return count

    def _do_overlays(self, item: Item, folder: Path, count: int) -> None:
        """Make the video of overlays from the classes of the frames."""

        def frames(reader: mmcv.VideoReader) -> Iterator[np.ndarray]:
            for index, frame in zip(range(count), reader):
                with Image.open(folder / f'{index:06d}.png') as file:
                    classes = np.array(file, dtype=np.int64)
                rgb = np.ascontiguousarray(frame[..., ::-1])
                yield self.products.overlay(rgb, classes)

        with _open(item.path) as reader:
            # OpenCV tells the format by the suffix, and opens the file itself.
            part = folder / f'overlay{self.suffix}'
            path = self.out / self._overlay(item)
            _write(path, part, frames(reader), reader.fps, count)


def count_frames(path: Path) -> int:
    """Number of frames that the header promises, at least 1."""
    return max(1, mmcv.VideoReader(str(path)).frame_cnt)


def _open(path: Path) -> mmcv.VideoReader:
    """Open a video, for a ``with``; frames are BGR, turned as it says."""
    reader = mmcv.VideoReader(str(path))
    if not reader.opened:
        raise BadInputError(
            'undecodable',
            f'{path}: cannot be opened as a video: it is damaged, or of a '
            'kind that this OpenCV does not read',
        )
    return reader


def _check_encoding(path: Path, reader: mmcv.VideoReader) -> None:
    """Refuse a video whose size or rate no overlay can have."""
    problem = None
    # The chroma of both codecs has half the size; OpenCV would cut off a
    # row or column.
    if reader.width % 2 or reader.height % 2:
        problem = (
            f'{reader.width}x{reader.height} pixels; a video of overlays '
            'needs an even width and height'
        )
    elif not (math.isfinite(reader.fps) and reader.fps > 0):
        problem = (
            f'{reader.fps} frames per second; a video of overlays needs a rate'
        )
    if problem is not None:
        raise BadInputError(
            'preparation',
            f'{path}: {problem}: expected --frames, which writes pictures',
        )


def _write(
    path: Path,
    part: Path,
    frames: Iterator[np.ndarray],
    fps: float,
    count: int,
) -> None:
    """Write a video, RGB uint8 (h, w, 3); it takes its place when whole."""
    first = next(frames)
    size = first.shape[1::-1]

    def check(written: Path) -> None:
        # Read the header back: OpenCV does not tell of a full disk.
        with _open(written) as reader:
            found = reader.frame_cnt, *reader.resolution
        if found != (count, *size):
            raise BadInputError(
                'preparation',
                f'{path}: {found[0]} frames of {found[1]}x{found[2]} were '
                f'written, expected {count} of {size[0]}x{size[1]}; is the '
                'disk full?',
            )

    codec = _CODECS[path.suffix]
    with atomic_file(path, check=check, part=part):
        writer = cv2.VideoWriter(
            str(part), cv2.VideoWriter_fourcc(*codec), fps, size
        )
        if not writer.isOpened():
            raise BadInputError(
                'preparation',
                f'{path}: this OpenCV cannot write {codec} at '
                f'{size[0]}x{size[1]} and {fps:g} frames per second; '
                'expected another --video-format, or --frames',
            )
        for frame in chain([first], frames):
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
