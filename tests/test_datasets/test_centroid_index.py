"""The file of centroids: what it depends on, faults, and several processes."""

import errno
import itertools
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hmsa_mmseg.datasets import centroid_index
from hmsa_mmseg.datasets.centroid_index import read_rows, write_rows
from hmsa_mmseg.datasets.centroids import LabelCentroids

LOAD = [dict(type='LoadAnnotations')]
# Processes of their own, without importing torch again.
FORK = multiprocessing.get_context('fork')


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr('hmsa_mmseg.datasets.centroids.BLOCK_SIZE', 2)


@pytest.fixture
def root(tmp_path, write_set):
    return write_set(tmp_path / 'set', count=9)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache'


@pytest.fixture
def labels(root, set_cfg, class_uniform):
    return class_uniform(set_cfg(root, LOAD)).labels(8)[0]


@pytest.fixture
def rows(labels):
    """The centroids, found without any file."""
    return np.concatenate([labels.rows(k) for k in range(9)])


@pytest.fixture
def reads(monkeypatch):
    """The labels that are read from now on."""
    positions = []
    rows = LabelCentroids.rows

    def count(self, position):
        positions.append(position)
        return rows(self, position)

    monkeypatch.setattr(LabelCentroids, 'rows', count)
    return positions


def load_or_build(labels, cache, num_workers=0):
    return centroid_index.load_or_build(labels, str(cache), num_workers)


def names(cache):
    return sorted(path.name for path in cache.iterdir())


def test_is_read_back(
    root, labels, rows, cache, reads, set_cfg, class_uniform
):
    before = centroid_index.index_path(labels, cache)
    built = load_or_build(labels, cache)
    assert np.array_equal(built, rows)
    assert built.dtype == np.int32
    assert sorted(reads) == [*range(9)]
    reads.clear()
    again = load_or_build(labels, cache)
    assert np.array_equal(again, built)
    assert again.dtype == np.int32
    # A few labels are looked at, to see that they are still the same.
    assert reads == [0, 4, 8]
    assert names(cache) == [before.name]
    assert before.name.startswith('BaseSegDataset_tile8_')
    # mmseg's LoadAnnotations changes its options at the first label.
    assert centroid_index.index_path(labels, cache) == before
    # A data set may move.
    moved = root.rename(root.with_name('moved'))
    labels = class_uniform(set_cfg(moved, LOAD)).labels(8)[0]
    reads.clear()
    assert np.array_equal(load_or_build(labels, cache), rows)
    assert len(reads) == 3


def test_default_folder(labels, monkeypatch, tmp_path):
    def folder():
        return centroid_index.index_path(labels).parent

    assert folder() == tmp_path / 'xdg' / 'hmsa_mmseg' / 'centroids'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/somebody')
    assert folder() == Path('/home/somebody/.cache/hmsa_mmseg/centroids')
    # A home that is not known.
    monkeypatch.setattr('os.path.expanduser', lambda path: path)
    assert folder() == Path(tempfile.gettempdir(), 'hmsa_mmseg/centroids')


def test_workers_change_nothing(labels, rows, cache):
    states = torch.get_rng_state(), random.getstate()
    assert np.array_equal(load_or_build(labels, cache, num_workers=2), rows)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


# --- what makes it another index


def test_other_labels_have_another_file(
    root, labels, cache, set_cfg, class_uniform
):
    load_or_build(labels, cache)
    label_map = {0: 1, 1: 0, 2: 2, 3: 3}
    load = dict(type='LoadSegLabels', num_classes=4, label_map=label_map)
    changed = [
        (8, dict(indices=8)),
        (6, {}),
        (8, dict(metainfo=dict(classes=tuple('abcde')))),
        (8, dict(reduce_zero_label=True)),
        (8, dict(pipeline=[load])),
    ]
    cfg = set_cfg(root, LOAD)
    variants = [
        class_uniform({**cfg, **options}).labels(tile_size)[0]
        for tile_size, options in changed
    ]
    paths = {centroid_index.index_path(one, cache) for one in variants}
    # A file of another size.
    label = np.ones((24, 32), np.uint8)
    Image.fromarray(label).save(root / 'ann' / '003.png')
    paths.add(centroid_index.index_path(labels, cache))
    assert len(paths) == len(changed) + 1
    assert paths.isdisjoint(cache.iterdir())
    rows = load_or_build(labels, cache)
    expected = [labels.rows(k) for k in range(9)]
    assert np.array_equal(rows, np.concatenate(expected))
    assert len(names(cache)) == 2


def load_nothing(results):
    return results


def test_the_name_of_the_file_stays(tmp_path, set_cfg, class_uniform):
    for folder in ('img', 'ann'):
        (tmp_path / folder).mkdir()
        for k in range(3):
            (tmp_path / folder / f'{k}.png').write_bytes(b'x' * k)
    cfg = set_cfg(tmp_path, pipeline=[])
    dataset = class_uniform(cfg, label_loader=[load_nothing])
    path = centroid_index.index_path(dataset.labels(64)[0])
    assert path.name == 'BaseSegDataset_tile64_a171231c49bd1236.npz'


@pytest.mark.fault(
    'labels have changed since their centroids were stored',
    'a warning; the centroids are found again',
)
def test_same_size_other_content(root, labels, cache, logged):
    load_or_build(labels, cache)
    path = root / 'ann' / '004.png'
    size = path.stat().st_size
    Image.fromarray(np.ones((24, 32), np.uint8)).save(path)
    with path.open('ab') as file:
        file.write(b'\0' * (size - path.stat().st_size))
    assert path.stat().st_size == size
    rows = load_or_build(labels, cache)
    assert {*rows[rows[:, 0] == 4][:, 3].tolist()} == {1}
    (warning,) = logged('WARNING')
    assert "004.png' has other centroids now" in warning
    assert len(names(cache)) == 1


# --- files that cannot be used


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.fault(
    'a file of centroids that is cut',
    'a warning; it is made again',
)
def test_files_cut_short_are_replaced(labels, rows, cache, logged):
    load_or_build(labels, cache)
    (path,) = cache.iterdir()
    damaged = path.read_bytes()[:-100]
    path.write_bytes(damaged)
    # So is a part of a run that was interrupted.
    parts = path.with_suffix('.parts')
    parts.mkdir()
    (parts / '1.npz').write_bytes(damaged)
    assert np.array_equal(load_or_build(labels, cache), rows)
    (warning,) = logged('WARNING')
    assert 'damaged' in warning
    assert names(cache) == [path.name]
    assert np.array_equal(read_rows(path), rows)


@pytest.mark.fault(
    'a flipped bit in a file of centroids',
    'refused, or what is read has not changed',
)
def test_no_flipped_bit_goes_unnoticed(labels, rows, cache):
    load_or_build(labels, cache)
    (path,) = cache.iterdir()
    content = path.read_bytes()
    for k in range(0, len(content), 17):
        flipped = bytearray(content)
        flipped[k] ^= 1 << k % 8
        path.write_bytes(flipped)
        try:
            found = read_rows(path)
        except ValueError:
            continue
        # In what zip stores beside the content, such as times.
        assert np.array_equal(found, rows), k


@pytest.mark.fault(
    'a file of centroids of other labels or another format',
    'a warning; it is made again',
)
def test_files_of_other_labels_and_formats_are_not_used(
    labels, rows, cache, logged, monkeypatch
):
    path = centroid_index.index_path(labels, cache)
    write_rows(cache / 'other.npz', rows + 1, cache)
    (cache / 'other.npz').rename(path)
    assert np.array_equal(load_or_build(labels, cache), rows)
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(centroid_index, 'FORMAT', 'hmsa_mmseg centroids 99')
        load_or_build(labels, cache)
    assert np.array_equal(load_or_build(labels, cache), rows)
    with np.load(path) as file:
        header = file['header']
    np.savez(path, header=header, rows=rows + 1)
    assert np.array_equal(load_or_build(labels, cache), rows)
    first, second, third = logged('WARNING')
    assert 'for other labels' in first
    assert "'hmsa_mmseg centroids 99'" in second
    assert 'checksum' in third


@pytest.mark.fault(
    'a program in a file of centroids',
    'not run; the file is made again',
)
def test_nothing_is_unpickled(tmp_path, labels, rows, cache):
    trace = tmp_path / 'trace'
    payload = np.array([Payload(trace)], object)
    cache.mkdir()
    path = centroid_index.index_path(labels, cache)
    with path.open('wb') as file:
        np.savez(file, header=payload, rows=payload)
    assert np.array_equal(load_or_build(labels, cache), rows)
    path.write_bytes(pickle.dumps(Payload(trace)))
    assert np.array_equal(load_or_build(labels, cache), rows)
    assert not trace.exists()


# --- folders that cannot be written


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize('fails', ['os.replace', 'numpy.savez'])
@pytest.mark.fault(
    'the disk is full when centroids are stored',
    'a warning; they are kept in memory',
)
def test_a_full_disk(labels, rows, cache, logged, monkeypatch, fails):
    monkeypatch.setattr(fails, full_disk)
    assert np.array_equal(load_or_build(labels, cache), rows)
    (warning,) = logged('WARNING')
    assert 'kept in memory' in warning
    assert 'No space left on device' in warning
    assert [path for path in cache.rglob('*') if path.is_file()] == []


# --- several processes, and processes that end


def in_job(rank, world_size, store, labels, cache, results):
    """One of the processes of a distributed job."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=world_size
    )
    read = LabelCentroids.rows
    positions = []
    LabelCentroids.rows = lambda self, k: positions.append(k) or read(self, k)
    try:
        found = load_or_build(labels, cache)
    except Exception as error:
        found = f'{type(error).__name__}: {error}'
    results.put((rank, found, positions))
    torch.distributed.destroy_process_group()


def run_job(tmp_path, labels, caches, different=None):
    """Labels and centroids of each rank; `different` labels of rank 1."""
    each = [labels] * len(caches)
    each[1] = different or labels
    results = FORK.Queue()
    processes = [
        FORK.Process(
            target=in_job,
            args=(rank, len(caches), tmp_path / 'store', *its, results),
        )
        for rank, its in enumerate(zip(each, caches))
    ]
    for process in processes:
        process.start()
    found = sorted(
        (results.get(timeout=60) for _ in processes), key=lambda one: one[0]
    )
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return found


def test_processes_of_a_job_share_the_work(tmp_path, labels, rows, cache):
    found = run_job(tmp_path, labels, [cache, cache])
    assert all(np.array_equal(table, rows) for _, table, _ in found)
    assert [one[2] for one in found] == [[0, 1, 4, 5, 8], [2, 3, 6, 7]]
    assert names(cache) == [centroid_index.index_path(labels).name]


@pytest.mark.parametrize('world_size', [2, 3])
@pytest.mark.fault(
    'processes have different files of centroids',
    'all use the table of the first',
)
def test_all_processes_use_the_table_of_the_first(
    tmp_path, labels, rows, world_size
):
    """Also where each has a file of its own that it would accept."""
    caches = [tmp_path / str(rank) for rank in range(world_size)]
    tables = [rows.copy() for _ in caches]
    for value, (table, cache) in enumerate(zip(tables, caches)):
        table[table[:, 0] == 2, 1] = value
        path = centroid_index.index_path(labels, str(cache))
        write_rows(path, table, cache)
    found = run_job(tmp_path, labels, caches)
    assert all(np.array_equal(table, tables[0]) for _, table, _ in found)
    # Each tries a few of its own labels.
    assert [one[2] for one in found] == [[0, 4, 8]] * world_size


@pytest.mark.parametrize('world_size', [2, 3])
@pytest.mark.fault(
    'one process has other labels for centroids, or cannot read one',
    'all stop, with rank and file',
)
def test_labels_of_one_process_that_differ(
    root, tmp_path, cache, set_cfg, class_uniform, world_size
):
    def labels(root, **options):
        return class_uniform(set_cfg(root, LOAD, **options)).labels(8)[0]

    def stored(name, label):
        other = tmp_path / name / root.name  # with the same names and sizes
        shutil.copytree(root, other)
        return other / 'ann' / label

    caches = [cache] * world_size
    others = 'rank 0' if world_size == 2 else 'rank 0, 2'
    fewer = run_job(tmp_path, labels(root), caches, labels(root, indices=8))
    assert {type(end) for _, end, _ in fewer} == {str}
    for _, end, _ in fewer:
        assert end.startswith('ValueError: class centroids: the processes')
        assert re.search(rf'differ, {others}: Base.*; rank 1: Base', end)
    # A file that cannot be read, before there are centroids.
    path = stored('broken', '003.png')
    path.write_bytes(b'\0' * path.stat().st_size)
    broken = run_job(tmp_path, labels(root), caches, labels(path.parents[1]))
    for rank, end, _ in broken:
        assert '003.png' in end
        assert end.startswith('RuntimeError: rank 1: ') == (rank != 1)
    # Another content, when there are.
    load_or_build(labels(root), cache)
    path = stored('changed', '004.png')
    size = path.stat().st_size
    Image.fromarray(np.ones((24, 32), np.uint8)).save(path)
    with path.open('ab') as file:
        file.write(b'\0' * (size - path.stat().st_size))
    changed = run_job(tmp_path, labels(root), caches, labels(path.parents[1]))
    for _, end, _ in changed:
        assert f'differ, {others}: no label has changed; rank 1: 004' in end


@pytest.mark.fault(
    'two jobs store centroids of one data set at once',
    'both succeed, with one whole file',
)
def test_two_processes_at_once(labels, rows, cache):
    together, results = FORK.Barrier(2), FORK.Queue()

    def build():
        together.wait()
        results.put(load_or_build(labels, cache))

    processes = [FORK.Process(target=build) for _ in range(2)]
    for process in processes:
        process.start()
    for _ in processes:
        assert np.array_equal(results.get(timeout=60), rows)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert names(cache) == [centroid_index.index_path(labels).name]


@pytest.mark.parametrize(
    ('at', 'nth', 'left'),
    [
        *(('os.fsync', nth, left) for nth, left in ((1, 9), (2, 7), (11, 0))),
        *(('os.replace', nth, left) for nth, left in ((1, 9), (6, 0))),
    ],
)
@pytest.mark.fault(
    'a kill while centroids are stored',
    'the next start goes on with the labels that are left',
)
def test_goes_on_after_being_killed_while_writing(
    labels, rows, cache, reads, monkeypatch, at, nth, left
):
    # Five parts and the whole; fsync is called twice for each.
    calls = itertools.count(1)

    def kill(*args):
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    original = getattr(os, at.split('.')[1])
    with monkeypatch.context() as patch:
        patch.setattr(at, kill)
        process = FORK.Process(target=load_or_build, args=(labels, cache))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert np.array_equal(load_or_build(labels, cache), rows)
    # Labels whose part was written are not read again.
    assert len(reads) == left
    path = centroid_index.index_path(labels, cache)
    assert names(cache) == [path.name]
    assert np.array_equal(read_rows(path), rows)
