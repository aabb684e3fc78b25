"""Fixtures shared by all tests: the default scope, seeds, tiny models."""

import datetime
import gc
import os
import platform
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

# Before torch, and for every process that the tests start. One thread each:
# `make test` keeps all cores busy with processes. Threads that wait by
# spinning slow each other down several times as soon as another program
# wants one of the cores.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from hmsa_mmseg import compat  # before mmseg.models, see its docstring

# isort: split

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

# Of modules that start processes, by themselves or by a fixture.
STARTS_PROCESSES = re.compile(
    r'\b(subprocess|multiprocessing|num_workers|run_tool|hold_lock|FORK)\b'
)
WORKER_BYTES = 3 * 2**30
FAULTS_PAGE = """# Faults

What goes wrong, what happens then, and the test that injects it: {number}
faults, run on {date} with {stack} on a CPU. `make faults` writes
this page from the marks and outcomes of the tests.

| fault | what happens | test | outcome |
| --- | --- | --- | --- |
{rows}
"""
PREPROCESSOR = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(64, 64),
    test_cfg=dict(size_divisor=1),
)
# One stride-4 and one stride-8 feature map of 8 and 16 channels.
TINY_BACKBONE = dict(
    type='ResNet',
    depth=18,
    num_stages=2,
    stem_channels=8,
    base_channels=8,
    strides=(1, 2),
    dilations=(1, 1),
    out_indices=(0, 1),
    norm_cfg=dict(type='BN', requires_grad=True),
)
TINY_FCN = dict(
    type='FCNHead',
    in_channels=16,
    in_index=1,
    channels=8,
    num_convs=1,
    dropout_ratio=0,
    num_classes=5,
    norm_cfg=dict(type='BN', requires_grad=True),
    loss_decode=dict(type='CrossEntropyLoss'),
)


# Otherwise a GPU rounds the factors of convolutions to ten bits.
torch.backends.cudnn.allow_tf32 = False


def pytest_addoption(parser):
    parser.addoption(
        '--faults', metavar='FILE', help='write a page of the faults tested'
    )


def pytest_terminal_summary(terminalreporter, config):
    """Write what the tests with the mark `fault` have shown."""
    if not config.getoption('--faults'):
        return
    rows = {}
    for outcome in ('passed', 'skipped', 'failed', 'error'):
        for report in terminalreporter.stats.get(outcome, ()):
            # Those of modules that are skipped as a whole have none.
            for name, fault in getattr(report, 'user_properties', ()):
                if name == 'fault':
                    # The worst of those with one mark is the last.
                    path = report.nodeid.split('[')[0].removeprefix('tests/')
                    rows[tuple(fault)] = (path, outcome)
    lines = [
        f'| {what} | {then} | `{path}` | {outcome} |'
        for (what, then), (path, outcome) in sorted(
            rows.items(), key=lambda row: row[1]
        )
    ]
    stack = f'Python {platform.python_version()}, torch {torch.__version__}'
    Path(config.getoption('--faults')).write_text(
        FAULTS_PAGE.format(
            number=len(lines),
            date=datetime.date.today(),
            stack=stack,
            rows='\n'.join(lines),
        )
    )


def pytest_configure(config):
    config.addinivalue_line(
        'markers', 'slow: a minute or more in all; `make test-slow` runs it'
    )
    config.addinivalue_line(
        'markers', 'needs_torch(feature): a key of compat.TORCH_SINCE'
    )


def pytest_runtest_setup(item):
    for mark in item.iter_markers('needs_torch'):
        if not compat.torch_has(*mark.args):
            pytest.skip(f'{mark.args[0]} {compat.torch_needed(*mark.args)}')


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """For `-n auto`: one process for each core, if the memory lasts.

    Hyper-threads count as cores: much of the time goes to Python. The largest
    tests take WORKER_BYTES with all they start.
    """
    if 'PYTEST_XDIST_AUTO_NUM_WORKERS' in os.environ:
        return None  # xdist reads it
    can_ask = hasattr(os, 'sched_getaffinity')
    cores = len(os.sched_getaffinity(0)) if can_ask else os.cpu_count() or 1
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return max(1, min(cores, memory // WORKER_BYTES))


@lru_cache
def starts_processes(path):
    return bool(STARTS_PROCESSES.search(path.read_text()))


def pytest_collection_modifyitems(items):
    """Let long tests go first, so that no process is left alone with them.

    Those of the tools: each trains or tests in processes of its own. `make
    check` leaves out what starts processes.
    """
    items.sort(key=lambda item: 'test_tools' not in item.path.parts)
    for item in items:
        if 'test_tools' in item.path.parts or starts_processes(item.path):
            item.add_marker('process')
        for mark in item.iter_markers('fault'):
            item.user_properties.append(('fault', [*mark.args]))


def pytest_collection_finish():
    """Spare the collector the millions of objects that are there to stay.

    mmengine calls `gc.collect` for each data set that it builds; to walk over
    all of torch and mmseg again takes up to half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def load():
    """Return a function that reads a checkpoint as without this package."""

    def load(path):
        serialization = torch.serialization
        allowed = getattr(serialization, 'get_safe_globals', list)()
        if allowed:
            serialization.clear_safe_globals()
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        finally:
            if allowed:
                serialization.add_safe_globals(allowed)

    return load


@pytest.fixture(autouse=True)
def _scope_and_seed():
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)


@pytest.fixture
def hold_lock():
    """Return a function that starts a process which holds a lock."""
    code = """
import sys
from hmsa_mmseg.utils.locks import lock_file
lock_file(*sys.argv[1:])
print('locked', flush=True)
sys.stdin.read()
"""
    holders = []

    def hold(path, what):
        holder = subprocess.Popen(
            [sys.executable, '-c', code, str(path), what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        holders.append(holder)
        assert b'locked\n' in iter(holder.stdout.readline, b'')
        return holder

    yield hold
    for holder in holders:
        holder.kill()
        holder.wait()


@pytest.fixture
def tiny_model_cfg():
    """Return a function that makes the config of a model for tests."""

    def make(seg_head=None, train_scales=(0.5, 1.0), test_cfg=None, **kwargs):
        head = dict(
            type='HierarchicalMSAttentionHead',
            seg_head=dict(TINY_FCN) if seg_head is None else seg_head,
            attn_channels=8,
        )
        head.update(kwargs.pop('decode_head', {}))
        cfg = dict(
            type='MultiScaleAttentionSegmentor',
            data_preprocessor=dict(PREPROCESSOR),
            backbone=dict(TINY_BACKBONE),
            decode_head=head,
            train_cfg=dict(scales=train_scales),
            test_cfg=test_cfg or dict(mode='whole', scales=(0.5, 1.0, 2.0)),
        )
        cfg.update(kwargs)
        return cfg

    return make


@pytest.fixture
def build_tiny(tiny_model_cfg):
    """Return a function that builds a model with lively BN statistics."""

    def build(*args, **kwargs):
        model = MODELS.build(ConfigDict(tiny_model_cfg(*args, **kwargs)))
        return randomize(model)

    return build


def randomize(model):
    """Give BN layers statistics that tell a wrong order from a right one."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


@pytest.fixture
def build_lively(build_tiny, make_batch):
    """Return a function that builds a model which predicts all classes."""

    @torch.no_grad()
    def build(*args, **kwargs):
        model = build_tiny(*args, **kwargs).eval()
        classifier = model.decode_head.seg_heads[-1].conv_seg
        torch.nn.init.normal_(classifier.weight)
        inputs, _ = make_batch()
        logits = model.decode_head.forward_seg_heads(
            model.extract_feat(inputs)
        ).seg_logits
        classifier.bias -= logits.mean(dim=(0, 2, 3))
        return model

    return build


@pytest.fixture
def make_batch():
    """Return a function that makes images and samples with labels."""

    def make(batch_size=2, size=(64, 64), num_classes=5, seed=0):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(batch_size, 3, *size, generator=generator)
        samples = []
        for _ in range(batch_size):
            label = torch.randint(
                0, num_classes, (1, *size), generator=generator
            )
            label[:, :3] = 255
            samples.append(
                SegDataSample(
                    gt_sem_seg=PixelData(data=label),
                    metainfo=dict(
                        ori_shape=size,
                        img_shape=size,
                        pad_shape=size,
                        padding_size=[0, 0, 0, 0],
                    ),
                )
            )
        return inputs, samples

    return make
