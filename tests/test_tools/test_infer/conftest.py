"""tools/infer.py in this process, and copies of it that can be killed."""

import multiprocessing
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

TOOLS = Path(__file__).parents[3] / 'tools'
# The tools are scripts, which find their modules in their own folder.
sys.path.insert(0, str(TOOLS))

import infer  # noqa: E402

from hmsa_mmseg.prediction.predicting import Predictor  # noqa: E402

# Its data set is not on the disk.
CONFIG = Path(__file__).parents[1] / 'tiny_cityscapes.py'
FORK = multiprocessing.get_context('fork')


@pytest.fixture
def config():
    return CONFIG


@pytest.fixture
def one_thread():
    """Round as the stock tools' subprocesses do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(trained, tmp_path, capsys):
    """Return a function that runs the tool, in `tmp_path/out`."""

    def run(*args, code=0, out='out', config=CONFIG, checkpoint=None):
        argv = [config, checkpoint or trained.checkpoint, *args]
        argv[2:2] = ['--device', 'cpu', '--out', tmp_path / out]
        found = infer.main([str(arg) for arg in argv])
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured.err if code else captured.out

    return run


@pytest.fixture
def images(tmp_path, val_images):
    """Three images, two of one name in different folders."""
    folder = tmp_path / 'images'
    paths = [folder / 'a/1.png', folder / 'b/1.jpg', folder / 'top.png']
    for path, source in zip(paths, val_images):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).save(path)
    return paths


@pytest.fixture
def read():
    """Return a function that reads a picture."""

    def read(path):
        return np.array(Image.open(path))

    return read


@pytest.fixture
def tree():
    """Return a function for the content of all files of a folder."""

    def tree(folder):
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob('*'))
            if path.is_file()
        }

    return tree


@pytest.fixture
def predicted(monkeypatch):
    """File names of the images that the model is given, in a list."""
    names = []
    call = Predictor.__call__

    def counting(self, batch):
        names.extend(Path(i.data_sample.img_path).name for i in batch)
        return call(self, batch)

    monkeypatch.setattr(Predictor, '__call__', counting)
    return names


@pytest.fixture
def fork(trained, tmp_path):
    """Return a function that runs the tool in a copy of this process.

    It gives a function that waits for the exit status.
    """
    # Threads of this process do not exist in its copy: none may be waited
    # for there.
    cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    started = []

    def fork(*args, prepare=None, **env):
        argv = [CONFIG, trained.checkpoint, *args, '--device', 'cpu']
        argv += ['--out', tmp_path / 'out']

        def child():
            torch.set_num_threads(1)
            os.environ.update(env)
            if prepare is not None:
                prepare()
            sys.exit(infer.main([str(arg) for arg in argv]))

        process = FORK.Process(target=child)
        process.start()
        started.append(process)

        def wait():
            process.join(120)
            return process.exitcode

        return wait

    yield fork
    for process in started:
        process.kill()
    cv2.setNumThreads(cv2_threads)
