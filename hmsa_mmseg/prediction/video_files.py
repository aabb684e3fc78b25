"""Reading and writing of video files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import cv2
import mmcv
import numpy as np

from hmsa_mmseg.utils import atomic_file

from .errors import InferError

# Codecs that every OpenCV has: MPEG-4 with FFmpeg, Motion JPEG without.
_CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG'}


def open_video(path: Path) -> mmcv.VideoReader:
    """Open a video, for a ``with``.

    Args:
        path (Path): Of the file.

    Returns:
        VideoReader: It gives frames BGR, uint8 (h, w, 3), turned as the
        file says.

    Raises:
        InferError: If it cannot be read.
    """
    reader = mmcv.VideoReader(str(path))
    if not reader.opened:
        raise InferError(
            f'{path}: cannot be opened as a video: it is damaged, or of a '
            'kind that this OpenCV does not read'
        )
    return reader


def count_frames(path: Path) -> int:
    """Number of frames that the header promises, at least 1."""
    return max(1, mmcv.VideoReader(str(path)).frame_cnt)


def check_encoding(path: Path, reader: mmcv.VideoReader) -> None:
    """Refuse a video whose size or rate no overlay can have.

    Args:
        path (Path): Of the file, for the message.
        reader (VideoReader): Of it.

    Raises:
        InferError: If no video can be written like it.
    """
    # The chroma of both codecs has half the size; OpenCV would cut off a
    # row or column.
    if reader.width % 2 or reader.height % 2:
        raise InferError(
            f'{path}: {reader.width}x{reader.height} pixels; a video of '
            'overlays needs an even width and height: expected --frames, '
            'which writes pictures'
        )
    if not (math.isfinite(reader.fps) and reader.fps > 0):
        raise InferError(
            f'{path}: {reader.fps} frames per second; a video of overlays '
            'needs a rate: expected --frames, which writes pictures'
        )


def write_video(
    path: Path, frames: Iterable[np.ndarray], fps: float, count: int
) -> None:
    """Write a video, which takes its place when it is whole.

    Args:
        path (Path): Of the file, ``.mp4`` or ``.avi``.
        frames (Iterable[ndarray]): RGB, uint8 (h, w, 3), one or more.
        fps (float): Frames per second.
        count (int): How many frames there are.

    Raises:
        InferError: If this OpenCV cannot write such videos, or what was
            written does not have all frames.
    """
    # OpenCV tells the format by the suffix, and opens the file itself.
    part = path.with_name(f'.{path.stem}.part{path.suffix}')
    sizes = []

    def check(written: Path) -> None:
        _check_written(written, path, count, sizes[0])

    with atomic_file(path, check=check, part=part):
        writer = None
        for frame in frames:
            if writer is None:
                sizes.append(frame.shape[1::-1])
                writer = _open_writer(part, fps, sizes[0])
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()


def _open_writer(
    path: Path, fps: float, size: tuple[int, int]
) -> cv2.VideoWriter:
    codec = _CODECS[path.suffix]
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*codec), fps, size
    )
    if not writer.isOpened():
        raise InferError(
            f'{path}: this OpenCV cannot write {codec} at {size[0]}x{size[1]} '
            f'and {fps:g} frames per second; expected another '
            '--video-format, or --frames'
        )
    return writer


def _check_written(
    part: Path, path: Path, count: int, size: tuple[int, int]
) -> None:
    """Read the header back: OpenCV does not tell of a full disk."""
    with open_video(part) as reader:
        found = reader.frame_cnt, *reader.resolution
    if found != (count, *size):
        raise InferError(
            f'{path}: {found[0]} frames of {found[1]}x{found[2]} were '
            f'written, expected {count} of {size[0]}x{size[1]}; is the disk '
            'full?'
        )
