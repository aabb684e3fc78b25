import os

import pytest

from hmsa_mmseg.export import ExportError
from hmsa_mmseg.export.out_path import check_out_path


def test_paths_that_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / 'old.onnx'
    old.write_bytes(b'old')
    check_out_path(old, 'onnx', dict(config='no_such_file.py'))
    check_out_path('new/folder/model', 'torchscript')
    check_out_path('model.pt2', 'torch-export')
    assert [*tmp_path.iterdir()] == [old]


def test_no_files(tmp_path):
    for path in (tmp_path, '/dev/null'):
        with pytest.raises(ExportError, match=rf'{path} is a directory or a'):
            check_out_path(path, 'onnx')


def test_what_must_stay(tmp_path):
    checkpoint = tmp_path / 'model.pth'
    checkpoint.write_bytes(b'weights')
    link = tmp_path / 'link.onnx'
    link.symlink_to(checkpoint)
    inputs = dict(config=tmp_path / 'config.py', checkpoint=checkpoint)
    for path in (checkpoint, link):
        with pytest.raises(ExportError, match=rf'{path} is the checkpoint'):
            check_out_path(path, 'onnx', inputs)


def test_parents(tmp_path, monkeypatch):
    (tmp_path / 'file').write_bytes(b'')
    path = tmp_path / 'file/folder/model.onnx'
    with pytest.raises(ExportError, match=r'cannot be written: .*/file is no'):
        check_out_path(path, 'onnx')
    # For root nothing is forbidden.
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(ExportError, match=r'cannot be written'):
        check_out_path(tmp_path / 'new/model.onnx', 'onnx')


def test_suffix_of_torch_export():
    with pytest.raises(ExportError, match=r'expected for example m.pt2'):
        check_out_path('m.pt', 'torch-export')
