"""A tiny Cityscapes, a tiny config, and the tools of mmseg and of ours."""

import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mmseg
import numpy as np
import pytest
import torch
from PIL import Image

from hmsa_mmseg import compat

TOOLS = Path(mmseg.__file__).parent / '.mim' / 'tools'
OWN_TOOLS = Path(__file__).parents[2] / 'tools'
CONFIG = Path(__file__).with_name('tiny_cityscapes.py')
# trainId: colour. One colour per class is learned in a few iterations, so
# that no metric below is that of a model which knows a single class.
COLOURS = {
    0: (128, 64, 128),
    2: (70, 70, 70),
    8: (107, 142, 35),
    10: (70, 130, 180),
    13: (0, 0, 142),
}
# An odd number: two processes must not count an image twice.
NUM_IMAGES = dict(train=4, val=3)
# mmengine gives each rank the GPU of its LOCAL_RANK, even where there is
# none; a negative number means no GPU. `--standalone` finds a free port.
TWO_RANKS = [
    *('torch.distributed.run', '--standalone', '--nproc_per_node=2'),
    *('--no-python', 'env', 'LOCAL_RANK=-1', sys.executable),
]
TWO_RANKS_OPTIONS = [
    'env_cfg.dist_cfg.backend=gloo',
    'model_wrapper_cfg.device_ids=None',
]


@pytest.fixture(scope='session')
def run_tool():
    """Return a function that runs a stock tool and gives its output."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}

    def run(tool, *args, cwd, options=(), two_ranks=False, fails=False):
        command = [sys.executable, TOOLS / tool, *args]
        if two_ranks:
            command[:1] = [sys.executable, '-m', *TWO_RANKS]
            command += ['--launcher', 'pytorch']
            options = [*options, *TWO_RANKS_OPTIONS]
        if options:
            command += ['--cfg-options', *options]
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert (done.returncode != 0) == fails, done.stdout[-5000:]
        return done.stdout

    return run


@pytest.fixture(scope='session')
def load_tool():
    """Return a function that loads a tool of this repository as a module."""

    def load(tool):
        name = 'own_' + tool.removesuffix('.py').replace('/', '_')
        spec = importlib.util.spec_from_file_location(name, OWN_TOOLS / tool)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def run_stock(monkeypatch, tmp_path):
    """Return a function that runs a tool of mmseg in this process."""

    def run(tool, *args, name='__main__'):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        monkeypatch.chdir(tmp_path)
        return runpy.run_path(str(TOOLS / tool), run_name=name)

    return run


@pytest.fixture
def stock_is_broken(run_stock):
    """Return a function that asserts that a tool of mmseg still fails."""

    def check(tool, *args, error, match, own=None):
        if compat.is_forked():
            pytest.skip('a fork of mmseg, in which the tool may work')
        found = None
        try:
            run_stock(tool, *args)
        except error as raised:
            found = raised
        own = own or tool
        assert found is not None, (
            f"mmseg's {tool} works again: tools/{own} and its tests can go, "
            'and its row in docs/tools.md changes'
        )
        assert re.search(match, str(found))

    return check


@pytest.fixture(scope='session')
def data_root(tmp_path_factory):
    """Return the root of a few images in the layout of Cityscapes."""
    root = tmp_path_factory.mktemp('cityscapes')
    rng = np.random.default_rng(0)
    palette = np.zeros((256, 3))
    for train_id, colour in COLOURS.items():
        palette[train_id] = colour
    for split, count in NUM_IMAGES.items():
        for k in range(count):
            label = rng.choice([*COLOURS], (2, 4)).astype(np.uint8)
            label = label.repeat(32, 0).repeat(32, 1)
            image = palette[label] + rng.normal(0, 10, (64, 128, 3))
            label[:2] = 255
            for folder, suffix, pixels in (
                ('leftImg8bit', '', image.clip(0, 255).astype(np.uint8)),
                ('gtFine', '_labelTrainIds', label),
            ):
                path = root / folder / split / 'aachen'
                path.mkdir(parents=True, exist_ok=True)
                name = f'aachen_{k:06d}_000019_{folder}{suffix}.png'
                Image.fromarray(pixels).save(path / name)
    return root


@pytest.fixture(scope='session')
def config_file(tmp_path_factory, data_root):
    """Return the path of the tiny config, with the data root filled in."""
    path = tmp_path_factory.mktemp('configs') / 'tiny.py'
    lines = [f'_base_ = {str(CONFIG)!r}', f'root = {str(data_root)!r}'] + [
        f'{split}_dataloader = dict(dataset=dict(data_root=root))'
        for split in ('train', 'val', 'test')
    ]
    path.write_text('\n'.join(lines))
    return path


@pytest.fixture(scope='session')
def trained(run_tool, config_file, tmp_path_factory, read_run):
    """Train once with the stock tool, for many tests to look at."""
    work_dir = tmp_path_factory.mktemp('trained')
    run_tool('train.py', config_file, '--work-dir', work_dir, cwd=work_dir)
    return read_run(work_dir)


@pytest.fixture(scope='session')
def read_run():
    """Return a function that reads what a training run has logged."""

    def read(work_dir):
        (log,) = work_dir.glob('*/*.log')
        (scalars,) = work_dir.glob('*/vis_data/scalars.json')
        lines = [json.loads(line) for line in scalars.read_text().splitlines()]
        return SimpleNamespace(
            work_dir=work_dir,
            checkpoint=work_dir / 'iter_8.pth',
            log=log.read_text(),
            train=[line for line in lines if 'loss' in line],
            val=[line for line in lines if 'mIoU' in line],
        )

    return read


@pytest.fixture
def val_images(data_root):
    images = sorted((data_root / 'leftImg8bit' / 'val').rglob('*.png'))
    assert len(images) == NUM_IMAGES['val']
    return images


@pytest.fixture(scope='session')
def same_maps():
    """Return a function for the share of equal pixels in two sets of maps.

    Subprocesses run with another number of threads than the tests, so that
    a pixel between two classes may fall to either side.
    """

    def share(first, second):
        assert len(first) == len(second) > 0
        return np.mean([np.mean(a == b) for a, b in zip(first, second)])

    return share


def _equal(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            _equal(first[key], second[key]) for key in first
        )
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return first == second


@pytest.fixture(scope='session')
def equal():
    """Return a function that compares nested states, to the last bit."""
    return _equal


@pytest.fixture(scope='session')
def same_end(load):
    """Return a function that compares two checkpoints.

    They must hold the same weights and the same state of the training.
    """

    def same_end(first, second):
        first, second = load(first), load(second)
        return all(
            _equal(first[key], second[key])
            for key in ('state_dict', 'optimizer', 'param_schedulers')
        )

    return same_end
