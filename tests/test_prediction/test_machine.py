"""The machine that both tools share, and its parts."""

import io
import os
import re
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmseg.registry import TRANSFORMS
from PIL import Image
from rich.console import Console

from hmsa_mmseg.datasets.autolabel_files import read_lines
from hmsa_mmseg.prediction import progress as progress_module
from hmsa_mmseg.prediction.errors import (
    PredictionError,
    Stopped,
    Stopping,
    run_to_end,
)
from hmsa_mmseg.prediction.machine import ahead
from hmsa_mmseg.prediction.predictor import Predictor
from hmsa_mmseg.prediction.progress import Progress
from hmsa_mmseg.prediction.shards import Shard, read_shard

from .conftest import read, tree

# What torch says on a GPU, and on a CPU (c10/core/impl/alloc_cpu.cpp).
MEMORY = [
    torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB'),
    RuntimeError(
        '[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: '
        "can't allocate memory: you tried to allocate 9000000000 bytes."
    ),
]


def test_ahead():
    """In order, so many values ahead of results, and none after an error."""
    taken, called, found = [], [], []

    def values():
        for value in range(100):
            taken.append(value)
            yield value

    def double(value):
        called.append(value)
        time.sleep(0.02)
        if value == 3:
            raise OSError('three')
        return 2 * value

    def collect():
        for outcome in ahead(double, values(), 2):
            found.append(outcome)
            assert len(taken) - len(found) <= 5

    with pytest.raises(OSError, match='three'):
        collect()
    assert found == [(0, 0), (1, 2), (2, 4)]
    assert len(called) <= 7


def failing(monkeypatch, error, when=lambda self: True):
    """Let the model fail for one image."""
    call = Predictor.__call__

    def predict(self, batch):
        paths = [image.data_sample.img_path for image in batch]
        if any(path.endswith('c/2.png') for path in paths) and when(self):
            raise error
        return call(self, batch)

    monkeypatch.setattr(Predictor, '__call__', predict)


@pytest.mark.parametrize(
    ('error', 'oom'), [(MEMORY[0], 'slide'), (MEMORY[1], 'fail')]
)
@pytest.mark.fault(
    'memory runs out for one image: autolabel',
    'listed with size and scales; the others are labelled',
)
def test_out_of_memory(label, monkeypatch, tmp_path, error, oom):
    """A line with size and scales; scales are never changed."""
    failing(monkeypatch, error)
    label('--oom', oom, code=1)
    (line,) = read_lines(tmp_path / 'out/failures.jsonl')
    assert line['reason'] == 'out-of-memory'
    assert '32x64 at scales 0.5, 1, 2' in line['error']
    assert ('--oom slide: ' in line['error']) == (oom == 'slide')
    assert not (tmp_path / 'out/b/c/2.png').exists()
    assert len(read_lines(tmp_path / 'out/manifest.jsonl')) == 4


@pytest.mark.fault(
    'memory runs out for one image: autolabel --oom slide',
    'predicted in windows, which is noted',
)
def test_out_of_memory_then_windows(label, monkeypatch, tmp_path):
    """The label is that of a run which asks for the same windows."""
    with monkeypatch.context() as patch:
        failing(patch, MEMORY[0], lambda self: self.mode == 'whole')
        label('--oom', 'slide')
    found = read_lines(tmp_path / 'out/manifest.jsonl')
    assert [line['mode'] for line in found] == [
        *('whole', 'whole', 'whole', 'slide', 'whole')
    ]
    # crop_size of the config is (16, 24): no more than half of 32 x 64.
    label('--slide', '16,24', '10,16', out='slide')
    label(out='whole')
    found, expected, whole = (
        tree(tmp_path / out)['b/c/2_prob.png']
        for out in ('out', 'slide', 'whole')
    )
    assert found == expected != whole


@pytest.mark.fault(
    'memory runs out for one image: autolabel --oom cpu',
    'predicted on the CPU, which is noted',
)
def test_out_of_memory_then_cpu(label, monkeypatch, tmp_path, done):
    """Once more on the CPU; here that is where it has been."""
    left = [True]
    failing(monkeypatch, MEMORY[0], lambda self: left and left.pop())
    label('--oom', 'cpu', '--overwrite')
    found = read_lines(tmp_path / 'out/manifest.jsonl')
    assert [line['mode'] for line in found] == [
        *('whole', 'whole', 'whole', 'cpu', 'whole')
    ]
    prob = (tmp_path / 'out/b/c/2_prob.png').read_bytes()
    assert prob == done['b/c/2_prob.png']


@pytest.mark.fault(
    'a model cannot predict one image of a batch',
    'the others are predicted alone',
)
def test_a_batch_that_the_model_cannot_do(run, monkeypatch, tmp_path):
    """The others in it are done alone."""
    failing(monkeypatch, ValueError('too small\nfor this: out of memory'))
    said = run('--batch-size', '3', '--on-error', 'skip', code=1)
    assert 'b/c/2.png: cannot be predicted for 32x64' in said
    assert 'ValueError: too small for this' in said
    found = [x for x in tree(tmp_path / 'out') if x.startswith('finished')]
    assert len(found) == 4


@pytest.mark.fault(
    'NaN in a prediction: autolabel',
    'the image is listed as failed; no label is written',
)
@pytest.mark.fault(
    'NaN in a weight: infer',
    'refused, with the name of the weight',
)
def test_numbers_that_are_none(run, label, teacher, monkeypatch, tmp_path):
    """NaN in a result, or in the weights, is no class."""
    call = Predictor.__call__

    def poisoned(self, batch):
        results = call(self, batch)
        if batch[0].data_sample.img_path.endswith('c/2.png'):
            results[0].confidence.data[0, 3, 3] = torch.nan
        return results

    monkeypatch.setattr(Predictor, '__call__', poisoned)
    label(code=1)
    (line,) = read_lines(tmp_path / 'out/failures.jsonl')
    assert (line['name'], line['reason']) == ('b/c/2', 'prediction')
    assert not (tmp_path / 'out/b/c/2_prob.png').exists()
    checkpoint = torch.load(teacher.checkpoint, weights_only=True)
    key = next(k for k in checkpoint['state_dict'] if 'conv_seg.bias' in k)
    checkpoint['state_dict'][key][1] = torch.nan
    torch.save(checkpoint, tmp_path / 'nan.pth')
    said = run(checkpoint=tmp_path / 'nan.pth', out='nan', code=1)
    assert f'{key} holds NaN' in said


def test_a_pipeline_that_resizes(label, make_config, tmp_path):
    config = make_config(
        'test_dataloader = dict(dataset=dict(pipeline=[\n'
        "    dict(type='LoadImageFromFile'),\n"
        "    dict(type='Resize', scale=(48, 24)),\n"
        "    dict(type='PackSegInputs')]))\n"
    )
    label('--limit', '1', config=config)
    assert read(tmp_path / 'out/a/0.png').shape == (32, 64)


class Step:
    """A step of a pipeline that does what it should not."""

    def __init__(self, action):
        self.action = action

    def __call__(self, results):
        if self.action == 'fail':
            raise AssertionError('on purpose')
        results['ori_shape'] = (16, 16)
        return None if self.action == 'drop' else results


@pytest.mark.parametrize(
    ('action', 'reason', 'named'),
    [
        ('fail', 'preparation', 'a/0.png: .* on purpose'),
        ('drop', 'preparation', 'a/0.png: .* given nothing'),
        ('shrink', 'prediction', 'a/0.png: .* 16x16 .* 32x64'),
        ('alpha', 'alpha', 'a/0.png: .* transparency'),
    ],
)
@pytest.mark.fault(
    'a test pipeline that fails, drops or shrinks an image: autolabel',
    'the image is listed as failed; no label is written',
)
def test_pipelines_that_go_wrong(
    label, images, make_config, tmp_path, action, reason, named
):
    TRANSFORMS.register_module(module=Step, force=True)
    step = f'dict(type={Step.__name__!r}, action={action!r}),'
    if action == 'alpha':
        step = ''
        Image.fromarray(np.zeros((32, 64, 4), 'u1')).save(images / 'a/0.png')
    config = make_config(
        'test_dataloader = dict(dataset=dict(pipeline=[\n'
        "    dict(type='LoadImageFromFile', color_type='unchanged'),\n"
        f"    {step} dict(type='PackSegInputs')]))\n"
    )
    label('--limit', '1', config=config, code=1)
    (line,) = read_lines(tmp_path / 'out/failures.jsonl')
    assert line['reason'] == reason
    assert re.search(named, line['error'])
    assert not (tmp_path / 'out/a').exists()


@pytest.mark.usefixtures('heeded')
@pytest.mark.parametrize('waits', [False, True])
@pytest.mark.fault(
    'a second Ctrl-C, or one at the start of a tool',
    'ends at once',
)
def test_a_second_signal_and_one_at_the_start(capsys, waits):
    def run(stopping):
        stopping.wait(waits)
        os.kill(os.getpid(), signal.SIGINT)
        assert waits
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError('not reached')

    assert run_to_end(run) == 130
    assert 'stopped by SIGINT' in capsys.readouterr().err


@pytest.mark.usefixtures('heeded')
def test_an_ignored_signal_stays_ignored():
    """As that of Ctrl-C in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stopping() as stopping:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        stopping.wait(True)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            stopping.wait(False)


@pytest.mark.parametrize('is_terminal', [False, True])
def test_lines_of_progress(monkeypatch, is_terminal):
    """A line now and then in a log; a bar on a terminal."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(progress_module, 'time', clock)
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=200)
    with Progress('labels 1/3', 100, console=console) as progress:
        for step in range(40):
            now[0] += 1
            progress.update(failed=step == 7)
    last = 'labels 1/3: 40/100 images, 1 failed, 1.00 images/s, 0:01:00 left'
    if is_terminal:
        assert last in file.getvalue()
        return
    assert file.getvalue().splitlines() == [
        'labels 1/3: 30/100 images, 1 failed, 1.00 images/s, 0:01:10 left',
        last,
    ]


SLURM = dict(SLURM_PROCID='3', SLURM_NTASKS='4')


@pytest.mark.parametrize(
    ('text', 'environ', 'expected'),
    [
        (None, {}, Shard(0, 1)),
        ('2/3', dict(RANK='0', WORLD_SIZE='2'), Shard(2, 3)),
        (
            None,
            dict(RANK='1', WORLD_SIZE='2', MASTER_ADDR='x'),
            Shard(1, 2, True),
        ),
        (None, dict(SLURM, SLURM_STEP_NUM_TASKS='5'), Shard(3, 5)),
        (None, dict(SLURM, RANK='0', WORLD_SIZE='1'), Shard(0, 1)),
        ('3/3', {}, 'from 0 to N - 1'),
        ('1', {}, '--shard 1'),
        (None, dict(RANK='2', WORLD_SIZE='2'), "RANK='2'"),
    ],
)
def test_shares(text, environ, expected):
    if isinstance(expected, Shard):
        assert read_shard(text, environ) == expected
        return
    with pytest.raises(PredictionError, match=expected):
        read_shard(text, environ)
