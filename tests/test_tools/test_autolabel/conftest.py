"""tools/autolabel.py in this process, and copies of it that can be killed."""

import copy
import json
import multiprocessing
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

TOOLS = Path(__file__).parents[3] / 'tools'
# The tools are scripts, which find their modules in their own folder.
sys.path.insert(0, str(TOOLS))

import autolabel  # noqa: E402
from autolabelling import running  # noqa: E402

from hmsa_mmseg.prediction.predicting import Predictor  # noqa: E402
from hmsa_mmseg.utils.loading import build_model, read_config  # noqa: E402

CONFIG = Path(__file__).with_name('tiny_teacher.py')
LOADED, CONFIGS = {}, {}
FORK = multiprocessing.get_context('fork')
#: Of images, sorted.
NAMES = ('a/0', 'a/1', 'b/0', 'b/c/2', 'top')


@pytest.fixture(scope='session')
def teacher(tmp_path_factory):
    """A checkpoint with random weights that predict many classes."""
    torch.manual_seed(0)
    model = build_model(read_config(str(CONFIG)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    classifier = model.decode_head.seg_heads[-1].conv_seg
    torch.nn.init.normal_(classifier.weight, 0, 2)
    torch.nn.init.zeros_(classifier.bias)
    folder = tmp_path_factory.mktemp('teacher')
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return SimpleNamespace(config=CONFIG, checkpoint=path)


@pytest.fixture(scope='session')
def draw():
    """Return a function that draws an image, uint8 (h, w, 3)."""

    def draw(seed, height=32, width=64):
        rng = np.random.default_rng(seed)
        cells = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
        pixels = cells.repeat(8, 0).repeat(8, 1)[:height, :width]
        noise = rng.normal(0, 8, pixels.shape)
        return (pixels + noise).clip(0, 255).astype(np.uint8)

    return draw


@pytest.fixture(scope='session')
def save(draw):
    """Return a function that writes a drawn image."""

    def save(path, seed, *size):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(seed, *size)).save(path)
        return path

    return save


@pytest.fixture
def images(tmp_path, save):
    """A folder of images, in folders, some of one base name."""
    return write_images(tmp_path, save)


def write_images(folder, save):
    for seed, name in enumerate(NAMES):
        save(folder / f'images/{name}.png', seed)
    return folder / 'images'


@pytest.fixture(scope='session')
def whole(teacher, tmp_path_factory, save):
    """The folder of labels of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp('whole')
    images = write_images(folder, save)
    argv = [teacher.config, teacher.checkpoint, images, folder / 'out']
    argv += ['--device', 'cpu', '--no-report']
    with one_thread():
        assert autolabel.main([str(part) for part in argv]) == 0
    return folder / 'out'


@pytest.fixture
def done(whole, tmp_path, images, tree):
    """The content of that folder, and a copy of it, `tmp_path/out`."""
    out = tmp_path / 'out'
    shutil.copytree(whole, out)
    for path in out.glob('*.json*'):
        there, here = (str(p.parent).encode() for p in (whole, out))
        path.write_bytes(path.read_bytes().replace(there, here))
    return tree(out)


@contextmanager
def one_thread():
    """Round as copies of this process do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture
def quick(monkeypatch):
    """Load a config and a model once, not for each run."""
    loaded = LOADED

    def load(cfg, checkpoint, device, **kwargs):
        key = str(cfg.model), str(checkpoint), device, str(kwargs)
        if key not in loaded:
            loaded[key] = Predictor(cfg, checkpoint, device, **kwargs)
        return loaded[key]

    configs = CONFIGS

    def read(path, options=None):
        key = str(path), str(options)
        if key not in configs:
            configs[key] = read_config(path, options)
        return copy.deepcopy(configs[key])

    monkeypatch.setattr(running, 'Predictor', load)
    monkeypatch.setattr(running, 'read_config', read)


@pytest.fixture
def argv(teacher, tmp_path):
    """Return a function that gives the command line of a run."""

    def argv(
        source, *args, out='out', checkpoint=None, config=None, report=False
    ):
        found = [config or teacher.config, checkpoint or teacher.checkpoint]
        found += [source, tmp_path / out, '--device', 'cpu']
        found += [] if report else ['--no-report']
        return [str(part) for part in (*found, *args)]

    return argv


@pytest.fixture
def run(argv, capsys, images):
    """Return a function that runs the tool and gives what it has said."""

    def run(*args, source=None, code=0, **kwargs):
        capsys.readouterr()
        found = autolabel.main(argv(source or images, *args, **kwargs))
        said = ''.join(capsys.readouterr())
        assert found == code, said
        return said

    return run


@pytest.fixture
def predicted(monkeypatch):
    """Names of the files that the model is given, in a list."""
    names = []
    call = Predictor.__call__

    def counting(self, batch):
        names.extend(Path(i.data_sample.img_path).name for i in batch)
        return call(self, batch)

    monkeypatch.setattr(Predictor, '__call__', counting)
    return names


@pytest.fixture(scope='session')
def tree():
    """Return a function for the content of all files of a folder.

    Paths in them are relative to its parent.
    """

    def tree(folder):
        parent = str(folder.parent).encode()
        return {
            path.relative_to(folder).as_posix(): path.read_bytes().replace(
                parent, b''
            )
            for path in sorted(Path(folder).rglob('*'))
            if path.is_file()
        }

    return tree


@pytest.fixture(scope='session')
def read():
    """Return a function that reads a picture."""

    def read(path):
        with Image.open(path) as image:
            return np.array(image)

    return read


@pytest.fixture(scope='session')
def lines():
    """Return a function that reads a file of JSON objects."""

    def lines(path):
        return [json.loads(line) for line in path.read_text().splitlines()]

    return lines


@pytest.fixture
def fork():
    """Return a function that runs the tool in a copy of this process.

    It gives a function that waits for the exit status.
    """
    # Threads of this process do not exist in its copy: none may be waited
    # for there.
    cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    started = []

    def fork(argv, prepare=None, **env):
        def child():
            # Not into what pytest has caught.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.environ.update(env)
            if prepare is not None:
                prepare()
            os._exit(autolabel.main(argv))

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
        process.join()
    cv2.setNumThreads(cv2_threads)
