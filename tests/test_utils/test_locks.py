"""One process for a folder at a time."""

import errno
import fcntl
import os

import pytest

from hmsa_mmseg.prediction.errors import PredictionError
from hmsa_mmseg.prediction.shards import Shard
from hmsa_mmseg.utils import locks


@pytest.mark.fault(
    'two processes predict one share in one folder',
    'the second is refused; a lock left by a kill does not count',
)
def test_a_share_is_predicted_by_one_process(hold_lock, tmp_path):
    holder = hold_lock(tmp_path / '.0.lock', 'prediction')
    match = f'process {holder.pid} on'
    with pytest.raises(PredictionError, match=match):
        Shard(0, 2).alone_in(tmp_path).__enter__()
    with Shard(1, 2).alone_in(tmp_path):
        assert (tmp_path / '.1.lock').exists()
    holder.kill()
    holder.communicate()
    with Shard(0, 2).alone_in(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.fault(
    'a file system without locks',
    'a warning: nothing guards the folder',
)
@pytest.mark.parametrize('is_windows', [False, True])
def test_file_systems_without_locks(tmp_path, monkeypatch, is_windows):
    """It is said that nothing guards the folder, and the run goes on."""

    def unsupported(*args):
        raise OSError(errno.EOPNOTSUPP, 'Operation not supported')

    said = []
    monkeypatch.setattr(fcntl, 'lockf', unsupported)
    if is_windows:
        monkeypatch.setattr(locks, 'fcntl', None)
    monkeypatch.setattr(
        locks, 'print_log', lambda text, **_: said.append(text)
    )
    locks.lock_file(tmp_path / 'a.lock', 'training')
    locks.unlock_file(tmp_path / 'a.lock')
    (warning,) = said
    assert 'nothing keeps another training out' in warning
