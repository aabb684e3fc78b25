"""What is refused before any work."""

import os

import pytest

from hmsa_mmseg.export.settings import (
    ExportError,
    ExportSettings,
    check_out_path,
    check_settings,
)

GOOD = ExportSettings('onnx', (64, 96), scales=(0.5, 1.0))
SLIDE = dict(mode='slide', crop_size=(32, 48), stride=(16, 16))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(format='tflite'), r"format must be one of .*'onnx'.*'tflite'"),
        (dict(raw='int8'), r"raw must be one of .*'uint8'.*'int8'"),
        (dict(size=(64, 2.5)), r'size must be .*\(64, 2.5\)'),
        (dict(batch=0), r'batch must be an integer of 1 or more.* 0'),
        (dict(opset=10), r'opset must be an integer of 11 .* 10'),
        (
            dict(dynamic=True, scales=(0.7, 1.0)),
            r'dynamic=True does not go with scales=\(0.7, 1.0\).*'
            r'\[0.7\].*0.75',
        ),
    ],
)
def test_settings_that_are_refused(change, message):
    with pytest.raises(ExportError, match=message):
        check_settings(GOOD._replace(**change), dict(mode='whole'))


def test_windows_are_refused_and_what_does_not_matter_is_not():
    with pytest.raises(ExportError, match=r"mode='slide'.*whole.*\(32, 48\)"):
        check_settings(GOOD, SLIDE)
    check_settings(GOOD._replace(scales=(0.7, 1.0)), None)
    check_settings(GOOD._replace(format='torch-export', opset=1), {})


def test_paths(tmp_path, monkeypatch):
    checkpoint = tmp_path / 'model.pth'
    checkpoint.write_bytes(b'weights')
    link = tmp_path / 'link.onnx'
    link.symlink_to(checkpoint)
    inputs = dict(config=tmp_path / 'config.py', checkpoint=checkpoint)
    for path, format, message in (
        (tmp_path, 'onnx', f'{tmp_path} is a directory or a'),
        (checkpoint, 'onnx', f'{checkpoint} is the checkpoint'),
        (link, 'onnx', f'{link} is the checkpoint'),
        (checkpoint / 'a/m.onnx', 'onnx', r'cannot be written: .*pth is no'),
        ('m.pt', 'torch-export', 'expected for example m.pt2'),
    ):
        with pytest.raises(ExportError, match=message):
            check_out_path(path, format, inputs)
    old = tmp_path / 'old.onnx'
    old.write_bytes(b'old')
    check_out_path(old, 'onnx', dict(config='no_such_file.py'))
    check_out_path(tmp_path / 'new/model.pt2', 'torch-export')
    assert not (tmp_path / 'new').exists()
    # For root nothing is forbidden.
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(ExportError, match=r'cannot be written'):
        check_out_path(tmp_path / 'new/model.onnx', 'onnx')
