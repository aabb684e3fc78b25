import os

import pytest

from hmsa_mmseg.export.settings import (
    ExportError,
    ExportSettings,
    check_out_path,
    check_settings,
)

GOOD = ExportSettings('onnx', (64, 96), scales=(0.5, 1.0))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(format='tflite'), r"format must be one of .*'onnx'.*'tflite'"),
        (dict(format='torchscript'), r"'torchscript' .* use 'onnx'"),
        (dict(raw='int8'), r"raw must be one of .*'uint8'.*'int8'"),
        (dict(size=(64,)), r'size must be \(height, width\).*\(64,\)'),
        (dict(size=(64, 0)), r'size must be .*\(64, 0\)'),
        (dict(size=(64, 2.5)), r'size must be .*\(64, 2.5\)'),
        (dict(batch=0), r'batch must be an integer of 1 or more.* 0'),
        (dict(batch=True), r'batch must be .* True'),
        (dict(opset=17.5), r'opset must be an integer of 11 .* 17.5'),
        (dict(opset=True), r'opset must be an integer of 11 .* True'),
        (dict(opset=10), r'opset must be an integer of 11 .* 10'),
        (
            dict(dynamic=True, scales=(0.7, 1.0)),
            r'dynamic=True does not go with scales=\(0.7, 1.0\).*'
            r'\[0.7\].*0.75',
        ),
    ],
)
def test_settings_that_are_refused(change, message):
    check_settings(GOOD, dict(mode='whole'))
    with pytest.raises(ExportError, match=message):
        check_settings(GOOD._replace(**change), dict(mode='whole'))


def test_what_does_not_matter_is_not_refused():
    check_settings(GOOD._replace(scales=(0.7, 1.0)), None)
    check_settings(GOOD._replace(format='torch-export', opset=1), {})


def test_slide_is_refused():
    test_cfg = dict(mode='slide', crop_size=(32, 48), stride=(16, 16))
    message = r"model.test_cfg.mode='slide'.*whole.*\(32, 48\)"
    with pytest.raises(ExportError, match=message):
        check_settings(GOOD, test_cfg)


def test_paths_that_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / 'old.onnx'
    old.write_bytes(b'old')
    check_out_path(old, 'onnx', dict(config='no_such_file.py'))
    check_out_path('new/folder/model', 'onnx')
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
    with pytest.raises(ExportError, match=r"'torchscript' .* use 'onnx'"):
        check_out_path('m.pt', 'torchscript')
