"""Both tools in this process, and copies of it that can be killed."""

import copy
import multiprocessing
import os
import shutil
import signal
import threading
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import autolabel
import cv2
import infer
import numpy as np
import pytest
import torch
from mmseg.apis import init_model
from PIL import Image

from hmsa_mmseg.autolabel import labelling
from hmsa_mmseg.prediction import inferring
from hmsa_mmseg.prediction.predictor import Predictor
from hmsa_mmseg.utils.loading import build_model, read_config

CONFIG = Path(__file__).with_name('tiny_teacher.py')
LOADED, CONFIGS = {}, {}
FORK = multiprocessing.get_context('fork')
#: Of images, sorted.
NAMES = ('a/0', 'a/1', 'b/0', 'b/c/2', 'top')
# cityscapesScripts, helpers/labels.py: name, id, train id of the classes that
# are evaluated; a transcription.
TABLE = """
road 7 0, sidewalk 8 1, building 11 2, wall 12 3, fence 13 4, pole 17 5,
traffic light 19 6, traffic sign 20 7, vegetation 21 8, terrain 22 9,
sky 23 10, person 24 11, rider 25 12, car 26 13, truck 27 14, bus 28 15,
train 31 16, motorcycle 32 17, bicycle 33 18
"""
SCRIPTS_IDS = [int(entry.split()[-2]) for entry in TABLE.split(',')]


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
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return SimpleNamespace(config=CONFIG, checkpoint=path)


@pytest.fixture(scope='session')
def network(teacher):
    """Return a function that gives the teacher, as mmseg loads it.

    Given scales, it gives a function from RGB, uint8 (h, w, 3), to logits
    (1, K, h, w).
    """

    @cache
    def network(*scales, config=teacher.config, checkpoint=teacher.checkpoint):
        cfg = read_config(str(config))
        if scales:
            cfg.model.test_cfg.scales = scales
        model = init_model(cfg, checkpoint and str(checkpoint), 'cpu')

        @torch.no_grad()
        def logits(image, columns=slice(None), flip=False):
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].flip(1)
            inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
            inputs = inputs[..., columns]
            meta = [dict(img_shape=tuple(inputs.shape[-2:]))]
            if flip:
                return model.encode_decode(inputs.flip(-1), meta).flip(-1)
            return model.encode_decode(inputs, meta)

        logits.model = model
        return logits

    return network


def draw(seed, height=32, width=64):
    """Draw an image, uint8 (h, w, 3)."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    pixels = cells.repeat(8, 0).repeat(8, 1)[:height, :width]
    noise = rng.normal(0, 8, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def save(path, seed, *size):
    """Write a drawn image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(seed, *size)).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    """A folder of images, in folders, some of one base name."""
    return write_images(tmp_path)


def write_images(folder):
    for seed, name in enumerate(NAMES):
        save(folder / f'images/{name}.png', seed)
    return folder / 'images'


@pytest.fixture(scope='session', autouse=True)
def _one_thread():
    """Round as copies of this process do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Load a config and a model once, not for each run."""

    def load(cfg, checkpoint, device, **kwargs):
        key = str((cfg.model, cfg.test_dataloader, checkpoint, device, kwargs))
        if key not in LOADED:
            LOADED[key] = Predictor(cfg, checkpoint, device, **kwargs)
        return LOADED[key]

    def read(path, options=None):
        key = str(path), str(options)
        if key not in CONFIGS:
            CONFIGS[key] = read_config(path, options)
        return copy.deepcopy(CONFIGS[key])

    for module in (inferring, labelling):
        monkeypatch.setattr(module, 'Predictor', load)
        monkeypatch.setattr(module, 'read_config', read)


@pytest.fixture
def make_config(teacher, tmp_path):
    """Return a function that writes the teacher's config with changes."""

    def make_config(changes):
        path = tmp_path / 'config.py'
        path.write_text(f'_base_ = {str(teacher.config)!r}\n{changes}')
        return path

    return make_config


@pytest.fixture
def heeded():
    """Tests that run in the background of a script inherit an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def argv(teacher, tmp_path, images):
    """Return a function that gives the command line of a tool."""

    def argv(
        tool, *args, source=None, out='out', checkpoint=None, config=None
    ):
        found = [config or teacher.config, checkpoint or teacher.checkpoint]
        found.append(source or images)
        found += ['--out', tmp_path / out] if tool is infer else []
        found += [tmp_path / out] if tool is autolabel else []
        return [str(part) for part in (*found, '--device', 'cpu', *args)]

    return argv


@pytest.fixture
def run(argv, capsys):
    """Return a function that infers, and gives what was said."""
    return runner(infer, argv, capsys)


@pytest.fixture
def label(argv, capsys):
    """Return a function that labels, and gives what was said."""

    def label(*args, report=False, **kwargs):
        args += () if report else ('--no-report',)
        return runner(autolabel, argv, capsys)(*args, **kwargs)

    return label


@pytest.fixture(params=['run', 'label'])
def either(request):
    """Return a function that runs the one tool, then the other."""
    either = request.getfixturevalue(request.param)
    is_infer = request.param == 'run'
    either.tool = infer if is_infer else autolabel
    either.options = () if is_infer else ('--no-report',)
    either.skip = ('--on-error', 'skip') if is_infer else ()
    return either


def runner(tool, argv, capsys):
    def run(*args, code=0, **kwargs):
        capsys.readouterr()
        found = tool.main(argv(tool, *args, **kwargs))
        said = ''.join(capsys.readouterr())
        assert found == code, said
        return said

    return run


@pytest.fixture(scope='session')
def whole(teacher, tmp_path_factory, _one_thread):
    """The folder of labels of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp('whole')
    images = write_images(folder)
    argv = [teacher.config, teacher.checkpoint, images, folder / 'out']
    argv += ['--device', 'cpu', '--no-report']
    assert autolabel.main([str(part) for part in argv]) == 0
    return folder / 'out'


@pytest.fixture
def done(whole, tmp_path, images):
    """The content of that folder, and a copy of it, `tmp_path/out`."""
    out = tmp_path / 'out'
    shutil.copytree(whole, out)
    for path in out.glob('*.json*'):
        there, here = (str(p.parent).encode() for p in (whole, out))
        path.write_bytes(path.read_bytes().replace(there, here))
    return tree(out)


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


def tree(folder):
    """Content of all files of a folder; paths in them begin at its parent."""
    parent = str(folder.parent).encode()
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(
            parent, b''
        )
        for path in sorted(Path(folder).rglob('*'))
        if path.is_file()
    }


def read(path):
    """Read a picture."""
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture
def fork(argv):
    """Return a function that runs a tool in a copy of this process.

    It gives a function that waits for the exit status.
    """
    # Threads of this process do not exist in its copy: none may be waited
    # for there.
    cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    started = []

    def fork(tool, *args, prepare=lambda: None, **env):
        source = env.pop('source', None)
        command = argv(tool, *args, **({'source': source} if source else {}))

        def child():
            # Not into what pytest has caught.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.environ.update(env)
            prepare()
            os._exit(tool.main(command))

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


def kill_at(number):
    """Return what lets a process kill itself at its n-th call of some.

    Calls between which the state of the disk changes, in several threads;
    an odd number kills before the call, an even one after it.
    """
    left, lock = [(number + 1) // 2], threading.Lock()

    def wrap(function):
        def wrapped(*args, **kwargs):
            with lock:
                left[0] -= 1
                is_now = left[0] == 0
            if is_now and number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(*args, **kwargs)
            finally:
                if is_now:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    def prepare():
        for name in ('replace', 'fsync'):
            setattr(os, name, wrap(getattr(os, name)))
        Path.unlink = wrap(Path.unlink)
        Path.open = wrap(Path.open)

    return prepare
