"""Several processes that label the images of one folder."""

import datetime
import json
import os
import shutil
import signal
import socket
import time

import pytest
import torch.distributed as dist
from autolabelling.shards import Shard, read_shard

from hmsa_mmseg.autolabel import merging
from hmsa_mmseg.autolabel.merging import merge
from hmsa_mmseg.prediction.errors import InferError

pytestmark = pytest.mark.usefixtures('quick')


def test_one_and_three_shards(run, tmp_path, tree, whole, lines):
    """The same files, to the last bit, when all is listed."""
    out = tmp_path / 'out'
    said = run('--shard', '1/3')
    assert 'share 1/3 is done' in said
    assert '--merge' in said
    found = lines(out / 'manifest.1-of-3.jsonl')
    # In the order in which they were written, by several threads.
    assert {line['name'] for line in found} == {'a/1', 'top'}
    assert len(found) == 2
    assert not (out / 'manifest.jsonl').exists()
    # Not all of them are there.
    said = run('--merge', code=1)
    assert '3 images are not labelled: a/0, b/0, b/c/2' in said
    assert len(lines(out / 'manifest.jsonl')) == 2
    run('--shard', '0/3')
    run('--shard', '2/3')
    run('--merge')
    assert tree(out) == tree(whole)
    # Once more changes nothing.
    assert merge(out) == (5, 0, [])
    assert tree(out) == tree(whole)


def test_one_shard_is_killed(argv, fork, run, images, tmp_path, tree, whole):
    """The others finish; its own is finished by any number of processes."""
    replace = os.replace

    def kill_at_first_label():
        def replacing(part, path):
            if str(path).endswith('0.png'):
                os.kill(os.getpid(), signal.SIGKILL)
            replace(part, path)

        os.replace = replacing

    waits = [
        fork(
            argv(images, '--shard', f'{k}/3'),
            kill_at_first_label if k == 0 else None,
        )
        for k in range(3)
    ]
    assert [wait() for wait in waits] == [-signal.SIGKILL, 0, 0]
    out = tmp_path / 'out'
    missing = merge(out).missing
    assert missing[0] == 'a/0'
    # Its second image is another thread's, which may be faster.
    assert missing[1:] in ([], ['b/c/2'])
    run()
    assert tree(out) == tree(whole)


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def test_processes_of_torchrun(argv, fork, images, tmp_path, lines):
    """They end together, with the same status, when the first has merged."""
    (images / 'a/1.png').write_bytes(b'')
    port = free_port()
    waits = [
        fork(
            argv(images),
            RANK=str(rank),
            WORLD_SIZE='2',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )
        for rank in range(2)
    ]
    assert [wait() for wait in waits] == [1, 1]
    out = tmp_path / 'out'
    assert len(lines(out / 'manifest.jsonl')) == 4
    assert [x['name'] for x in lines(out / 'failures.jsonl')] == ['a/1']
    assert not list(out.glob('*-of-*'))


def test_a_process_of_torchrun_that_comes_late(argv, fork, images):
    """The others wait longer than torch would by itself."""
    init = dist.init_process_group

    def impatient(*args, timeout=datetime.timedelta(seconds=1), **kwargs):
        init(*args, timeout=timeout, **kwargs)

    def prepare(seconds):
        dist.init_process_group = impatient
        time.sleep(seconds)

    port = free_port()
    waits = [
        fork(
            argv(images),
            lambda rank=rank: prepare(3 * rank),
            RANK=str(rank),
            WORLD_SIZE='2',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )
        for rank in range(2)
    ]
    assert [wait() for wait in waits] == [0, 0]


def test_the_same_shard_twice(argv, fork, images, tmp_path, tree, whole):
    """By mistake, at the same time: nothing is ever half written."""
    waits = [fork(argv(images, '--shard', '0/1')) for _ in range(2)]
    # One may merge while the other still writes.
    assert {wait() for wait in waits} <= {0, 1}
    assert merge(tmp_path / 'out') == (5, 0, [])
    assert tree(tmp_path / 'out') == tree(whole)


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
        (None, dict(SLURM_PROCID='3', SLURM_NTASKS='4'), Shard(3, 4)),
        (
            None,
            dict(SLURM_PROCID='0', SLURM_NTASKS='4', SLURM_STEP_NUM_TASKS='1'),
            Shard(0, 1),
        ),
        (
            None,
            dict(SLURM_PROCID='3', SLURM_NTASKS='4', RANK='0', WORLD_SIZE='1'),
            Shard(0, 1),
        ),
    ],
)
def test_shares(monkeypatch, text, environ, expected):
    for name in environ:
        monkeypatch.setenv(name, environ[name])
    assert read_shard(text) == expected


@pytest.mark.parametrize(
    ('text', 'environ', 'named'),
    [
        ('3/3', {}, 'from 0 to N - 1'),
        ('1', {}, '--shard 1'),
        (None, dict(RANK='2', WORLD_SIZE='2'), "RANK='2'"),
        (None, dict(SLURM_PROCID='4', SLURM_NTASKS='4'), "SLURM_PROCID='4'"),
    ],
)
def test_shares_that_make_no_sense(monkeypatch, text, environ, named):
    for name in environ:
        monkeypatch.setenv(name, environ[name])
    with pytest.raises(InferError, match=named):
        read_shard(text)


def test_lost_lines(run, tmp_path, tree, done):
    """What a killed process did not list is read from the files."""
    out = tmp_path / 'out'
    for content in (b'', b'{"name": "a/0", "ima', b'[]\nnull\n"x"\n{}\n'):
        (out / 'manifest.jsonl').write_bytes(content)
        assert merge(out) == (5, 0, [])
        assert tree(out) == done
    (out / 'manifest.jsonl').unlink()
    (out / 'manifest.0-of-1.jsonl').write_bytes(b'{"torn')
    run()
    assert tree(out) == done


def test_failures_of_another_teacher(run, images, tmp_path):
    """They do not stand for images that are still to be tried."""
    (images / 'a/1.png').write_bytes(b'')
    run(code=1)
    run('--scales', '0.5,1', '--overwrite', '--shard', '0/2')
    assert merge(tmp_path / 'out') == (3, 0, ['a/1', 'b/c/2'])
    run('--scales', '0.5,1', '--overwrite', '--shard', '1/2', code=1)
    assert merge(tmp_path / 'out') == (4, 1, [])


@pytest.mark.parametrize('first', ['failures.jsonl', 'failures.0-of-1.jsonl'])
def test_two_merge_at_once(run, images, tmp_path, lines, monkeypatch, first):
    """While one reads, the other does all of it: no failure is lost."""
    (images / 'a/1.png').write_bytes(b'')
    run('--shard', '0/1', code=1)
    out = tmp_path / 'out'
    (out / 'failures.jsonl').unlink()
    line = dict(name='a/1', image='', reason='empty', error='')
    (out / 'failures.0-of-1.jsonl').write_text(json.dumps(line) + '\n')
    read = merging.read_lines

    def reading(path):
        found = read(path)
        if path.name == first:
            monkeypatch.setattr(merging, 'read_lines', read)
            assert merge(out) == (4, 1, [])
        return found

    monkeypatch.setattr(merging, 'read_lines', reading)
    assert merge(out) == (4, 1, [])
    assert lines(out / 'failures.jsonl') == [line]


def test_a_damaged_label_is_missing(run, tmp_path, tree, whole, done):
    """A flipped bit that no one else would see."""
    path = tmp_path / 'out/b/c/2_prob.png'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert merge(tmp_path / 'out').missing == ['b/c/2']
    shutil.rmtree(tmp_path / 'out/b')
    run()
    assert tree(tmp_path / 'out') == tree(whole)
