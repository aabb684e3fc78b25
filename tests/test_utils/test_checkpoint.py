import os
import pickle
import stat

import numpy as np
import pytest
import torch

from hmsa_mmseg.utils import atomic_save, safe_load


class _Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class _Unwritable:
    def __reduce__(self):
        raise OSError('half way')


@pytest.mark.parametrize('zipped', [True, False])
def test_safe_load_takes_tensors_and_a_numpy_scalar(tmp_path, zipped):
    path = tmp_path / 'file.pth'
    content = dict(state=dict(w=torch.arange(3)), mean_iu=np.float64(0.25))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = safe_load(path)
    assert loaded['mean_iu'] == 0.25
    assert torch.equal(loaded['state']['w'], torch.arange(3))


@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_safe_load_knows_both_names_of_the_scalar(tmp_path, module):
    path = tmp_path / 'file.pth'
    torch.save(np.float64(0.25), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    own_name = np.float64(0).__reduce__()[0].__module__.encode()
    assert own_name in data
    path.write_bytes(data.replace(own_name, f'{module}.multiarray'.encode()))
    assert safe_load(path) == 0.25


def test_safe_load_allows_the_scalar_for_itself_only(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(np.float64(0.25), path)
    assert safe_load(path) == 0.25
    with pytest.raises(pickle.UnpicklingError, match='scalar'):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize('zipped', [True, False])
def test_safe_load_runs_no_code(tmp_path, zipped):
    path, touched = tmp_path / 'file.pth', tmp_path / 'touched'
    torch.save(_Payload(touched), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'mkdir, which is not loaded'):
        safe_load(path)
    assert not touched.exists()


@pytest.mark.parametrize('value', [np.zeros(2), np.float32(1), _Payload('')])
def test_safe_load_names_what_it_refuses(tmp_path, value):
    path = tmp_path / 'file.pth'
    torch.save(dict(entry=value), path)
    names = r'(_reconstruct|Float32DType|posix\.mkdir)'
    with pytest.raises(ValueError, match=rf'file\.pth.*{names}'):
        safe_load(path)


@pytest.mark.parametrize('data', [b'', b'no checkpoint', b'PK\x03\x04abc'])
def test_safe_load_refuses_damaged_files(tmp_path, data):
    path = tmp_path / 'file.pth'
    path.write_bytes(data)
    with pytest.raises(ValueError, match='damaged or no file of torch'):
        safe_load(path)


def test_safe_load_lets_a_missing_file_be_known(tmp_path):
    with pytest.raises(FileNotFoundError):
        safe_load(tmp_path / 'none.pth')


def test_atomic_save_writes_what_torch_save_would(tmp_path):
    path = tmp_path / 'new' / 'file.pth'
    atomic_save(dict(w=torch.arange(3)), path)
    assert torch.equal(torch.load(path)['w'], torch.arange(3))
    assert os.listdir(path.parent) == ['file.pth']
    # As open() gives them, not the private ones of a temporary file.
    other = tmp_path / 'other'
    other.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode == stat.S_IMODE(other.stat().st_mode)


def test_atomic_save_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / 'file.pth'
    path.write_bytes(b'old')
    with pytest.raises(OSError, match='half way'):
        atomic_save(dict(w=torch.ones(9), entry=_Unwritable()), path)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file.pth']
