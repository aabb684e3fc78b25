"""Several processes, rounds, checks; full disks; too many failures."""

import errno
import json
import os
import signal
from collections import namedtuple
from functools import partial
from pathlib import Path

import autolabel
import numpy as np
import pytest
from PIL import Image

from hmsa_mmseg.autolabel import label_store, merging
from hmsa_mmseg.autolabel.merging import merge
from hmsa_mmseg.autolabel.meta import read_meta
from hmsa_mmseg.datasets.autolabel_files import read_lines

from .conftest import save, tree


@pytest.mark.fault(
    'one of several autolabel processes is killed',
    'the others finish; its share can be done by any number',
)
def test_one_shard_is_killed(fork, label, tmp_path, whole):
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
            *(autolabel, '--no-report', '--shard', f'{k}/3'),
            prepare=(lambda: None) if k else kill_at_first_label,
        )
        for k in range(3)
    ]
    assert [wait() for wait in waits] == [-signal.SIGKILL, 0, 0]
    out = tmp_path / 'out'
    missing = merge(out).missing
    assert missing[0] == 'a/0'
    # Its second image is another thread's, which may be faster.
    assert missing[1:] in ([], ['b/c/2'])
    label()
    assert tree(out) == tree(whole)


@pytest.mark.fault(
    'a flipped bit in the pixels of an auto-label',
    'found by the merge; the same command predicts it again',
)
@pytest.mark.fault(
    'a manifest of auto-labels is lost or torn',
    'read again from the labels',
)
def test_lost_lines_and_flipped_bits(label, tmp_path, done):
    """What a killed process did not list is read from the files.

    That a bit of one is another nobody sees but the merge; then the same
    command cures it.
    """
    out = tmp_path / 'out'
    for content in (b'', b'{"name": "a/0", "ima', b'[]\nnull\n"x"\n{}\n'):
        (out / 'manifest.jsonl').write_bytes(content)
        assert merge(out) == (5, 0, [])
        assert tree(out) == done
    path = out / 'b/c/2_prob.png'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said = label('--merge', code=1)
    assert '1 images are not labelled: b/c/2; the command' in said
    (out / 'manifest.jsonl').unlink()
    (out / 'manifest.0-of-1.jsonl').write_bytes(b'{"torn')
    label()
    assert tree(out) == done


def test_failures_of_another_teacher(label, images, tmp_path):
    """They do not stand for images that are still to be tried."""
    (images / 'a/1.png').write_bytes(b'')
    label(code=1)
    label('--scales', '0.5,1', '--overwrite', '--shard', '0/2')
    assert merge(tmp_path / 'out') == (3, 0, ['a/1', 'b/c/2'])
    label('--scales', '0.5,1', '--overwrite', '--shard', '1/2', code=1)
    assert merge(tmp_path / 'out') == (4, 1, [])


@pytest.mark.parametrize('first', ['failures.jsonl', 'failures.0-of-1.jsonl'])
@pytest.mark.fault(
    'two processes merge the lists of auto-labels at once',
    'no failure is lost',
)
def test_two_merge_at_once(label, images, tmp_path, monkeypatch, first):
    """While one reads, the other does all of it: no failure is lost."""
    (images / 'a/1.png').write_bytes(b'')
    label('--shard', '0/1', code=1)
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
    assert read_lines(out / 'failures.jsonl') == [line]


def test_rounds(label, tmp_path, images):
    """Each in a folder of its own, which refers to the one before."""
    assert 'expected them in' in label('--round', '2', code=1)
    label('--round', '1', '--shard', '0/2')
    assert '2 images are not labelled' in label('--round', '2', code=1)
    label('--round', '1')
    out = tmp_path / 'out'
    assert read_meta(out / 'round_1')['previous'] is None
    label('--round', '2', '--scales', '0.5,1')
    second = read_meta(out / 'round_2')
    assert (second['round'], second['previous']['folder']) == (2, '../round_1')
    assert sorted(path.name for path in out.iterdir()) == [
        *('round_1', 'round_2')
    ]
    # Another first round is another teacher of the second, whatever failed.
    (images / 'top.png').write_bytes(b'')
    label('--round', '1', '--scales', '1', '--overwrite', code=1)
    said = label('--round', '2', '--scales', '0.5,1', code=1)
    assert 'previous.identity was' in said


@pytest.fixture
def config(make_config, tmp_path):
    """A config with a labelled split of two images."""
    root = tmp_path / 'data'
    for k in range(2):
        name = f'val/aachen/aachen_{k:06d}_000019'
        save(root / f'leftImg8bit/{name}_leftImg8bit.png', k)
        truth = root / f'gtFine/{name}_gtFine_labelTrainIds.png'
        truth.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 64), k, np.uint8)).save(truth)
    return make_config(
        f'val_dataloader = dict(dataset=dict(data_root={str(root)!r}))\n'
    )


def test_check_and_report(label, config, tmp_path, monkeypatch):
    """The split is labelled beside the images, and the report has scores."""
    # Processes that read are more than a few images need.
    options = partial(autolabel.ReportOptions, workers=0, shows_progress=False)
    monkeypatch.setattr(autolabel, 'ReportOptions', options)
    said = label(
        *('--check', 'config:val_dataloader', '--threshold', '0.3'),
        *('--teacher-saw', 'config:val_dataloader'),
        config=config,
        report=True,
    )
    out = tmp_path / 'out'
    assert f'report: {out / "report.html"}' in said
    assert [
        line['name'] for line in read_lines(out / 'check/manifest.jsonl')
    ] == [f'aachen/aachen_00000{k}_000019_leftImg8bit' for k in range(2)]
    meta = read_meta(out / 'check')
    assert meta['images'] == dict(source='config:val_dataloader', count=2)
    assert meta['teacher'] == read_meta(out)['teacher']
    report = json.loads((out / 'report.json').read_text())
    assert report['threshold'] == 0.3
    assert report['check'] is not None
    assert len(read_lines(out / 'manifest.jsonl')) == 5
    # What the checkpoint does not tell.
    found = [s for s in meta['trained_on'] if s['source'] == 'declared']
    assert [s['images'] for s in found] == [2]
    seen = (out / 'teacher_images.txt').read_text()
    assert seen.count('aachen_000001_000019_leftImg8bit') == 1


def test_three_shards(label, config, tmp_path):
    """The same files, to the last bit, when all is listed; also of a check."""
    out = tmp_path / 'out'
    check = ('--check', 'config:val_dataloader')
    said = label('--merge', *check, config=config, code=1)
    assert 'out/check/autolabel_meta.json: there is no such file' in said
    said = label(*check, '--shard', '1/3', config=config)
    assert 'share 1/3 is done' in said
    assert '--merge' in said
    found = read_lines(out / 'manifest.1-of-3.jsonl')
    # In the order in which they were written, by several threads.
    assert sorted(line['name'] for line in found) == ['a/1', 'top']
    assert not (out / 'manifest.jsonl').exists()
    # Not all of them are there.
    said = label(*check, '--merge', config=config, code=1)
    assert '1 images are not labelled: aachen/aachen_000000' in said
    assert '3 images are not labelled: a/0, b/0, b/c/2' in said
    assert len(read_lines(out / 'manifest.jsonl')) == 2
    for share in ('0/3', '2/3'):
        label(*check, '--shard', share, config=config)
    label(*check, '--merge', config=config)
    label(*check, config=config, out='whole')
    assert tree(out) == tree(tmp_path / 'whole')
    # Once more changes nothing.
    assert merge(out) == (5, 0, [])
    assert tree(out) == tree(tmp_path / 'whole')


def test_where_the_time_went(label, tmp_path):
    said = label('--timing', tmp_path / 'timing.json')
    found = json.loads((tmp_path / 'timing.json').read_text())
    seconds = found['seconds']
    assert found['images'] == 5
    parts = [seconds[key] for key in ('model', 'reading', 'writing')]
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(seconds['total'])
    share = 1 - seconds['model'] / seconds['total']
    assert found['outside_model'] == pytest.approx(share)
    assert f'time outside the model: {100 * share:.1f} %' in said


@pytest.mark.fault(
    'more images fail than --max-errors',
    'stops and says so',
)
def test_max_errors(label, images, tmp_path):
    for path in images.rglob('*.png'):
        path.write_bytes(b'')
    said = label('--max-errors', '3', '--threads', '0', code=1)
    assert '3 images could not be labelled' in said
    assert '--max-errors above 3' in said
    assert len(read_lines(tmp_path / 'out/failures.0-of-1.jsonl')) == 3


@pytest.mark.fault(
    'the disk is full at the report of autolabel',
    'exit status 28: labels are complete, the report is not',
)
def test_a_disk_that_is_full_at_the_report(label, monkeypatch):
    """All is labelled; the exit status is that of a full disk."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(autolabel, 'make_report', full)
    said = label(report=True, code=28)
    assert 'are complete, the report is not' in said


@pytest.mark.fault(
    'the labels of all images will not fit on the disk',
    'said after the first ones, with exit status 28',
)
def test_space_is_foreseen(label, monkeypatch, tmp_path):
    """After the first images, for what all shards will write."""
    usage = namedtuple('Usage', 'total used free')
    free = [10_000]
    monkeypatch.setattr(label_store, 'SAMPLE', 2)
    monkeypatch.setattr(
        label_store.shutil, 'disk_usage', lambda path: usage(0, 0, free[0])
    )
    said = label(code=28)
    # Two files of a block of 4096 bytes each, three images left.
    assert 'the first 2 images take 0.008 MB each' in said
    assert '3 more take' in said
    assert '--ignore-space' in said
    label('--ignore-space')
    free[0] = 3 * 8192
    label(out='enough')
    # One more image, and one of the other shard.
    free[0] = 2 * 8192 - 1
    said = label('--shard', '0/2', out='shards', code=28)
    assert '2 more take' in said


@pytest.mark.fault(
    'the output folder is read-only, or below a file: autolabel',
    'an error with the path and the reason',
)
def test_folders_that_cannot_be_written(label, monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    said = label(out='file/out', code=1)
    assert 'file/out cannot be written: Not a directory' in said
    opened = Path.open

    def read_only(self, mode='r', *args, **kwargs):
        if 'w' in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(self, mode, *args, **kwargs)

    (tmp_path / 'out').mkdir()
    monkeypatch.setattr(Path, 'open', read_only)
    said = label(code=1)
    assert 'out cannot be written: Read-only file system' in said
    assert [*(tmp_path / 'out').iterdir()] == []
