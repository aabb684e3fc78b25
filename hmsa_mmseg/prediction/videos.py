"""Videos of a run.

Results of frames are files of a folder with the video's name. Overlays are a
video again, which is made in the end: until then the classes of each frame are
kept in ``DIR/finished/<name>/``, which also tells a run that goes on which
frames are done.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePath

import mmcv
import numpy as np
from PIL import Image

from .batches import predict_all
from .context import Run
from .errors import InferError
from .failures import Failures
from .finished import write_json
from .inputs import Item
from .layout import FINISHED
from .pipeline import Loaded
from .products import Products, classes_of, write_classes
from .video_files import check_encoding, open_video, write_video

_HEADER = 'video.json'


def is_finished(run: Run, item: Item) -> bool:
    """Whether all files of a video are there and good."""
    good = run.finished.files(item)
    recorded = run.finished.recorded(item)
    if good != recorded:
        return False
    folders = {PurePath(file).parent.as_posix() for file in good}
    wanted = {
        PurePath(file).parent.as_posix()
        for file in _frame_products(run).files(f'{item.name}/0')
    }
    if _makes_video(run):
        overlay = _video_file(run, item)
        return wanted <= folders and overlay in good
    return wanted <= folders


def do_video(run: Run, item: Item) -> None:
    """Predict a video and write what is asked for.

    Args:
        run (Run): What all images have in common.
        item (Item): The video.

    Raises:
        InferError: If it cannot be read to its end or cannot be predicted.
            In the former case there are results of the frames that can be
            read.
        OSError: If a file cannot be written.
    """
    with open_video(item.path) as reader:
        if _makes_video(run):
            check_encoding(item.path, reader)
        kept = run.finished.clear(item)
        folder = _start(run, item)
        count = _do_frames(run, item, reader, folder)
        expected = reader.frame_cnt
    products = _frame_products(run)
    files = [
        file
        for index in range(count)
        for file in products.files(_frame_name(item, index))
    ]
    if _makes_video(run):
        files.append(_video_file(run, item))
        _do_overlays(run, item, folder, count)
    run.finished.write(item, kept.union(files))
    shutil.rmtree(folder)
    if count < expected:
        raise InferError(
            f'{item.path}: {count} frames can be read, its header promises '
            f'{expected}; there are results of those {count}'
        )


def _makes_video(run: Run) -> bool:
    return 'overlay' in run.products.saves and not run.frames


def _frame_products(run: Run) -> Products:
    """What is written for each frame."""
    if _makes_video(run):
        return run.products.without('overlay')
    return run.products


def _video_file(run: Run, item: Item) -> str:
    return f'overlay/{item.name}.{run.video_format}'


def _frame_name(item: Item, index: int) -> str:
    return f'{item.name}/{index:06d}'


def _start(run: Run, item: Item) -> Path:
    """Go on with the frames of an interrupted run, if they are good."""
    folder = run.out / FINISHED / item.name
    header = dict(
        run.finished.header(item), saves=list(_frame_products(run).saves)
    )
    if run.overwrite or run.finished.read(folder / _HEADER) != header:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / _HEADER, header)
    return folder


def _do_frames(
    run: Run, item: Item, reader: mmcv.VideoReader, folder: Path
) -> int:
    """Predict the frames that are not done; return how many there are."""
    count = 0

    def undone() -> Iterator[tuple[int, Loaded]]:
        nonlocal count
        for index, frame in enumerate(reader):
            count = index + 1
            if (folder / f'{index:06d}.png').exists():
                run.progress.update()
                continue
            yield index, run.pipeline.frame(item.path, frame)

    products = _frame_products(run)
    for index, image, result in predict_all(
        # A video is whole or not done.
        *(undone(), run.predictor, run.batch_size, Failures(skip=False)),
    ):
        products.write(run.out, _frame_name(item, index), image.image, result)
        # The last: now the frame is done.
        write_classes(folder / f'{index:06d}.png', classes_of(result))
        run.progress.update()
    if not count:
        raise InferError(f'{item.path}: no frame can be read')
    return count


def _do_overlays(run: Run, item: Item, folder: Path, count: int) -> None:
    """Make the video of overlays from the classes of the frames."""

    def overlays(reader: mmcv.VideoReader) -> Iterator[np.ndarray]:
        for index, frame in zip(range(count), reader):
            with Image.open(folder / f'{index:06d}.png') as file:
                classes = np.array(file, dtype=np.int64)
            rgb = np.ascontiguousarray(frame[..., ::-1])
            yield run.products.overlay(rgb, classes)

    with open_video(item.path) as reader:
        path = run.out / _video_file(run, item)
        write_video(path, overlays(reader), reader.fps, count)
