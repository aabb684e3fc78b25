"""tools/infer.py on videos: frames, overlays, resume, damage."""

import os
import signal

import cv2
import infer
import mmcv
import numpy as np
import pytest
from PIL import Image

from hmsa_mmseg.prediction import videos
from hmsa_mmseg.prediction.predictor import Predictor
from hmsa_mmseg.prediction.products import Products

from .conftest import draw, read, tree

FRAMES = 5


def write_video(path, frames, backend=cv2.CAP_ANY):
    size = frames[0].shape[1::-1]
    codec = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(path), backend, codec, 12.5, size)
    for frame in frames:
        writer.write(frame)
    writer.release()


@pytest.fixture
def frames():
    """Five frames, BGR."""
    return [draw(k, 64, 128)[..., ::-1].copy() for k in range(FRAMES)]


@pytest.fixture
def clip(tmp_path, frames):
    path = tmp_path / 'videos/day/clip.avi'
    path.parent.mkdir(parents=True)
    write_video(path, frames)
    return path


def test_frames_are_those_of_images(run, clip, tmp_path):
    """Also in batches; a video has the name of its path."""
    folder = tmp_path / 'frames'
    folder.mkdir()
    for index, frame in enumerate(mmcv.VideoReader(str(clip))):
        cv2.imwrite(str(folder / f'{index:06d}.png'), frame)
    run('--save', 'classes', source=folder, out='images_out')
    options = ('--save', 'classes', '--batch-size', '2')
    run(*options, source=tmp_path / 'videos')
    expected = tmp_path / 'images_out/classes'
    found = tmp_path / 'out/classes/day/clip'
    names = {*tree(found)}
    assert names == {*tree(expected)}
    assert len(names) == FRAMES
    for name in names:
        assert np.mean(read(found / name) == read(expected / name)) > 0.999
    assert {*tree(tmp_path / 'out/finished')} == {'day/clip.json'}


@pytest.mark.parametrize('suffix', ['mp4', 'avi'])
def test_overlay_is_a_video(run, clip, frames, tmp_path, predicted, suffix):
    run('--video-format', suffix, source=clip)
    path = tmp_path / f'out/overlay/clip.{suffix}'
    assert {*tree(tmp_path / 'out/overlay')} == {path.name}
    assert len(tree(tmp_path / 'out/classes')) == FRAMES
    reader = mmcv.VideoReader(str(path))
    assert (reader.fps, reader.resolution) == (12.5, (128, 64))
    assert len([*reader]) == reader.frame_cnt == FRAMES
    # Each frame is its image's overlay, up to the codec.
    run('--frames', '--save', 'overlay', source=clip)
    still = tmp_path / 'out/overlay/clip'
    for index, frame in enumerate(reader):
        expected = cv2.imread(str(still / f'{index:06d}.jpg'))
        assert np.mean(cv2.absdiff(frame, expected)) < 12
    assert np.mean(cv2.absdiff(frames[0], expected)) > 15
    assert len(predicted) == 2 * FRAMES
    # Now everything is there.
    run('--video-format', suffix, source=clip)
    run('--frames', '--save', 'overlay', 'classes', source=clip)
    assert len(predicted) == 2 * FRAMES


def test_goes_on(run, clip, tmp_path, predicted):
    """Frames that are done stay, those of other settings do not."""
    out = tmp_path / 'out'
    write = videos.write_classes

    def failing(path, classes):
        if path.name == '000003.png':
            raise OSError('no space left')
        write(path, classes)

    def interrupted():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(videos, 'write_classes', failing)
            said = run('--writers', '1', source=clip, code=1)
        assert 'no space left' in said

    def again(*args):
        predicted.clear()
        run(*args, source=clip)
        return len(predicted)

    interrupted()
    assert not (out / 'overlay').exists()
    assert sorted(tree(out / 'finished/clip'))[:3] == [
        *('000000.png', '000001.png', '000002.png')
    ]
    assert again() <= 2
    assert {*tree(out / 'finished')} == {'clip.json'}
    assert len([*mmcv.VideoReader(str(out / 'overlay/clip.mp4'))]) == FRAMES
    # A frame is lost.
    (out / 'classes/clip/000001.png').unlink()
    assert again() == FRAMES
    # An unfinished video, and now something else is to be saved.
    (out / 'finished/clip.json').unlink()
    interrupted()
    assert again('--save', 'classes', 'color') == FRAMES


@pytest.mark.fault(
    'a kill while a video is written',
    'no part takes its name; the same command goes on',
)
def test_killed_while_a_video_is_written(run, clip, tmp_path, fork):
    """No part of it takes its name."""
    draw = Products.overlay

    def kill_at_third():
        left = [3]

        def drawing(*args):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return draw(*args)

        Products.overlay = drawing

    wait = fork(infer, source=clip, prepare=kill_at_third)
    assert wait() == -signal.SIGKILL
    run(source=clip)
    run(source=clip, out='whole')
    found, expected = tree(tmp_path / 'out'), tree(tmp_path / 'whole')
    # Files of a codec need not be the same to the last bit.
    for files in (found, expected):
        files.pop('overlay/clip.mp4')
    assert found == expected
    readers = [
        mmcv.VideoReader(str(tmp_path / out / 'overlay/clip.mp4'))
        for out in ('out', 'whole')
    ]
    for one, other in zip(*readers):
        assert np.mean(cv2.absdiff(one, other)) < 1


@pytest.mark.fault(
    'a video that is cut, or is none',
    'skipped with the reason; what can be read is predicted',
)
def test_damaged_videos(run, clip, tmp_path):
    whole = clip.read_bytes()
    folder = tmp_path / 'videos'
    (folder / 'none.mp4').write_bytes(b'no video')
    (folder / 'cut.avi').write_bytes(whole[: len(whole) // 2])
    (folder / 'head.avi').write_bytes(whole[: whole.index(b'movi') + 4])
    error = run('--on-error', 'skip', source=folder, code=1)
    assert f'skipped: {folder / "none.mp4"}: cannot be opened' in error
    assert f'skipped: {folder / "head.avi"}: no frame' in error
    assert f'skipped: {folder / "cut.avi"}: ' in error
    assert f'its header promises {FRAMES}' in error
    # What could be read is there.
    shorter = len([*mmcv.VideoReader(str(folder / 'cut.avi'))])
    assert 0 < shorter < FRAMES
    assert len(tree(tmp_path / 'out/classes/cut')) == shorter
    overlay = mmcv.VideoReader(str(tmp_path / 'out/overlay/cut.mp4'))
    assert overlay.frame_cnt == shorter
    assert len(tree(tmp_path / 'out/classes/day/clip')) == FRAMES


def test_a_frame_that_the_model_cannot_do(run, clip, tmp_path, monkeypatch):
    """A video is whole or not done."""

    def fail(self, batch):
        raise ValueError('too small')

    monkeypatch.setattr(Predictor, '__call__', fail)
    said = run('--on-error', 'skip', source=clip, code=1)
    assert f'skipped: {clip}: cannot be predicted' in said
    assert not (tmp_path / 'out/overlay').exists()


@pytest.mark.parametrize('opens', [True, False])
@pytest.mark.fault(
    'OpenCV cannot write a video, or loses frames of it',
    'an error; no part takes its name',
)
def test_a_video_that_cannot_be_written(
    run, clip, tmp_path, monkeypatch, opens
):
    real = cv2.VideoWriter

    class Writer:  # OpenCV's cannot be a base: its memory is its own
        left = 2

        def __init__(self, *args):
            self.writer = real(*args)
            self.release = self.writer.release

        def isOpened(self):
            return opens

        def write(self, frame):
            self.left -= 1
            if self.left >= 0:
                self.writer.write(frame)

    monkeypatch.setattr(cv2, 'VideoWriter', Writer)
    said = run(source=clip, code=1)
    assert ('2 frames of 128x64' if opens else 'cannot write mp4v') in said
    assert not (tmp_path / 'out/overlay/clip.mp4').exists()


@pytest.mark.fault(
    'a video of odd size, which codecs would cut',
    'refused, with what helps',
)
def test_odd_sizes(run, frames, tmp_path):
    path = tmp_path / 'odd.avi'
    odd = [frame[:63, :127] for frame in frames]
    # FFmpeg's would cut it.
    write_video(path, odd, cv2.CAP_OPENCV_MJPEG)
    error = run(source=path, code=1)
    assert '127x63 pixels' in error
    assert '--frames' in error
    run('--frames', source=path)
    found = Image.open(tmp_path / 'out/overlay/odd/000004.jpg')
    assert found.size == (127, 63)
