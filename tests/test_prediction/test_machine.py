"""The machine that both tools share, and its parts."""

import errno
import io
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from hmsa_mmseg.prediction import progress as progress_module
from hmsa_mmseg.prediction.errors import (
    BadInputError,
    PredictionError,
    SpaceError,
    Stopped,
    Stopping,
    run_to_end,
)
from hmsa_mmseg.prediction.journal import Source, is_same, source_of
from hmsa_mmseg.prediction.machine import ahead, is_out_of_memory
from hmsa_mmseg.prediction.predicting import Predictor
from hmsa_mmseg.prediction.progress import Progress
from hmsa_mmseg.prediction.shards import Shard, read_shard

# What torch says on a GPU, and on a CPU (c10/core/impl/alloc_cpu.cpp).
MEMORY = [
    torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB'),
    RuntimeError(
        '[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: '
        "can't allocate memory: you tried to allocate 9000000000 bytes."
    ),
]


@pytest.mark.parametrize('threads', [0, 1, 3])
def test_ahead_keeps_the_order(threads):
    def halve(value):
        if value % 2:
            raise BadInputError('odd', str(value))
        time.sleep(0.01 * (value % 3))
        return value // 2

    found = [*ahead(halve, range(20), threads)]
    assert [value for value, _ in found] == [*range(20)]
    assert [result for _, result in found[::2]] == [*range(10)]
    assert {result.reason for _, result in found[1::2]} == {'odd'}


def test_ahead_drops_what_waits_after_an_error():
    called = []

    def fail(value):
        called.append(value)
        time.sleep(0.02)
        raise OSError(value)

    with pytest.raises(OSError, match='0'):
        [*ahead(fail, range(100), 2)]
    assert len(called) <= 4


def test_ahead_works_off_what_waits_at_an_end():
    def values():
        yield from range(3)
        raise PredictionError('enough')

    called = []
    with pytest.raises(PredictionError):
        for _ in ahead(called.append, values(), 1):
            pass
    assert called == [0, 1, 2]


def failing(monkeypatch, error, when=lambda self: True):
    """Let the model fail for one image."""
    call = Predictor.__call__

    def predict(self, batch):
        paths = [image.data_sample.img_path for image in batch]
        if any(path.endswith('c/2.png') for path in paths) and when(self):
            raise error
        return call(self, batch)

    monkeypatch.setattr(Predictor, '__call__', predict)


@pytest.mark.parametrize('error', MEMORY)
def test_out_of_memory(label, monkeypatch, tmp_path, lines, error):
    """A line with size and scales; scales are never changed."""
    failing(monkeypatch, error)
    label(code=1)
    (line,) = lines(tmp_path / 'out/failures.jsonl')
    assert line['reason'] == 'out-of-memory'
    assert '32x64 at scales 0.5, 1, 2' in line['error']
    assert not (tmp_path / 'out/b/c/2.png').exists()
    assert len(lines(tmp_path / 'out/manifest.jsonl')) == 4


def test_out_of_memory_then_windows(label, monkeypatch, tmp_path, lines, tree):
    """The label is that of a run which asks for the same windows."""

    def is_whole(self):
        return self.mode == 'whole'

    with monkeypatch.context() as patch:
        failing(patch, MEMORY[0], is_whole)
        label('--oom', 'slide')
    modes = {
        line['name']: line['mode']
        for line in lines(tmp_path / 'out/manifest.jsonl')
    }
    assert modes.pop('b/c/2') == 'slide'
    assert {*modes.values()} == {'whole'}
    # crop_size of the config is (16, 24): no more than half of 32 x 64.
    label('--slide', '16,24', '10,16', out='slide')
    label(out='whole')
    found, expected, whole = (
        tree(tmp_path / out)['b/c/2_prob.png']
        for out in ('out', 'slide', 'whole')
    )
    assert found == expected != whole


def test_out_of_memory_then_cpu(label, monkeypatch, tmp_path, lines, done):
    """Once more on the CPU; here that is where it has been."""
    left = [1]

    def first(self):
        left[0] -= 1
        return left[0] >= 0

    failing(monkeypatch, MEMORY[0], first)
    label('--oom', 'cpu', '--overwrite')
    found = lines(tmp_path / 'out/manifest.jsonl')
    assert [line['mode'] for line in found] == [
        *('whole', 'whole', 'whole', 'cpu', 'whole')
    ]
    prob = (tmp_path / 'out/b/c/2_prob.png').read_bytes()
    assert prob == done['b/c/2_prob.png']


def test_out_of_memory_again(label, monkeypatch, tmp_path, lines):
    failing(monkeypatch, MEMORY[0])
    label('--oom', 'slide', code=1)
    (line,) = lines(tmp_path / 'out/failures.jsonl')
    assert line['error'].count('out of memory') == 2
    assert '--oom slide' in line['error']
    assert not is_out_of_memory(ValueError('out of memory'))


def test_a_batch_that_the_model_cannot_do(run, monkeypatch, tmp_path, tree):
    """The others in it are done alone."""
    failing(monkeypatch, ValueError('too small\nfor this'))
    said = run('--batch-size', '3', '--on-error', 'skip', code=1)
    assert 'b/c/2.png: cannot be predicted for 32x64' in said
    assert 'ValueError: too small for this' in said
    found = [x for x in tree(tmp_path / 'out') if x.startswith('finished')]
    assert len(found) == 4


def test_numbers_that_are_none(
    run, label, teacher, monkeypatch, tmp_path, lines
):
    """NaN in a result, or in the weights, is no class."""
    call = Predictor.__call__

    def poisoned(self, batch):
        results = call(self, batch)
        if batch[0].data_sample.img_path.endswith('c/2.png'):
            results[0].confidence.data[0, 3, 3] = torch.nan
        return results

    monkeypatch.setattr(Predictor, '__call__', poisoned)
    label(code=1)
    (line,) = lines(tmp_path / 'out/failures.jsonl')
    assert (line['name'], line['reason']) == ('b/c/2', 'prediction')
    assert not (tmp_path / 'out/b/c/2_prob.png').exists()
    checkpoint = torch.load(teacher.checkpoint, weights_only=True)
    key = next(k for k in checkpoint['state_dict'] if 'conv_seg.bias' in k)
    checkpoint['state_dict'][key][1] = torch.nan
    torch.save(checkpoint, tmp_path / 'nan.pth')
    said = run(checkpoint=tmp_path / 'nan.pth', out='nan', code=1)
    assert f'{key} holds NaN' in said


def test_a_pipeline_that_resizes(label, teacher, tmp_path, read):
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(teacher.config)!r}\n'
        'test_dataloader = dict(dataset=dict(pipeline=[\n'
        "    dict(type='LoadImageFromFile'),\n"
        "    dict(type='Resize', scale=(48, 24)),\n"
        "    dict(type='PackSegInputs')]))\n"
    )
    label('--limit', '1', config=config)
    assert read(tmp_path / 'out/a/0.png').shape == (32, 64)


@pytest.fixture
def heeded():
    """Tests that run in the background of a script inherit an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('heeded')
@pytest.mark.parametrize('waits', [False, True])
def test_a_second_signal_and_one_at_the_start(capsys, waits):
    def run(stopping):
        stopping.wait(waits)
        os.kill(os.getpid(), signal.SIGINT)
        assert waits
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError('not reached')

    assert run_to_end(run) == 130
    assert 'stopped by SIGINT' in capsys.readouterr().err


def test_an_ignored_signal_stays_ignored():
    """As that of Ctrl-C in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            stopping.wait(True)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Stopped):
                stopping.wait(False)
    finally:
        signal.signal(signal.SIGINT, before)


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


@pytest.mark.parametrize(
    ('number', 'kind', 'said'),
    [
        (errno.EDQUOT, SpaceError, r'there: .*: 1 of 3 images'),
        (errno.EACCES, PermissionError, 'there'),
    ],
)
def test_errors_of_the_disk(number, kind, said):
    progress = Progress('x', 3, shows=False)
    progress.update()
    with pytest.raises(kind, match=said), progress:
        raise OSError(number, os.strerror(number), 'there')


def test_the_same_file(tmp_path):
    """Its bytes count, whatever its times; a look at those spares reading."""
    path = tmp_path / 'image.bmp'
    path.write_bytes(b'one')
    source = source_of(path)
    later, earlier = time.time_ns() + 10**12, 0
    for since in (later, earlier):
        assert is_same(path, source, since)
        assert not is_same(path, source._replace(bytes=4), since)
        # Of labels of version 0.1.
        assert is_same(path, Source(3), since)
    # Clocks of file systems tick a few times in a hundredth of a second.
    time.sleep(0.05)
    path.write_bytes(b'two')
    assert not is_same(path, source, earlier)
    assert is_same(path, Source(3), earlier)
    path.unlink()
    assert not is_same(path, source, earlier)


SLURM = dict(SLURM_PROCID='3', SLURM_NTASKS='4')


@pytest.mark.parametrize(
    ('text', 'environ', 'expected'),
    [
        (None, {}, Shard(0, 1)),
        ('2/3', dict(RANK='0', WORLD_SIZE='2'), Shard(2, 3)),
        (None, dict(RANK='1', WORLD_SIZE='2'), Shard(1, 2)),
        (
            None,
            dict(RANK='1', WORLD_SIZE='2', MASTER_ADDR='x'),
            Shard(1, 2, True),
        ),
        (None, SLURM, Shard(3, 4)),
        (
            None,
            dict(SLURM_PROCID='0', SLURM_NTASKS='4', SLURM_STEP_NUM_TASKS='1'),
            Shard(0, 1),
        ),
        (None, dict(SLURM, RANK='0', WORLD_SIZE='1'), Shard(0, 1)),
        ('3/3', {}, 'from 0 to N - 1'),
        ('1', {}, '--shard 1'),
        (None, dict(RANK='2', WORLD_SIZE='2'), "RANK='2'"),
        (None, dict(SLURM, SLURM_PROCID='4'), "SLURM_PROCID='4'"),
    ],
)
def test_shares(text, environ, expected):
    if isinstance(expected, Shard):
        assert read_shard(text, environ) == expected
        return
    with pytest.raises(PredictionError, match=expected):
        read_shard(text, environ)
