import pytest

from hmsa_mmseg.export.settings import (
    ExportError,
    ExportSettings,
    check_settings,
)

GOOD = ExportSettings('onnx', (64, 96), scales=(0.5, 1.0))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(format='tflite'), r"format must be one of .*'onnx'.*'tflite'"),
        (dict(raw='int8'), r"raw must be one of .*'uint8'.*'int8'"),
        (dict(size=(64,)), r'size must be \(height, width\).*\(64,\)'),
        (dict(size=(64, 0)), r'size must be .*\(64, 0\)'),
        (dict(size=(64, 2.5)), r'size must be .*\(64, 2.5\)'),
        (dict(batch=0), r'batch must be an integer of 1 or more.* 0'),
        (dict(batch=True), r'batch must be .* True'),
        (dict(opset=17.5), r'opset must be an integer of 11 .* 17.5'),
        (dict(opset=True), r'opset must be an integer of 11 .* True'),
        (dict(opset=10), r'opset=10 is too low.* needs 11 or more'),
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
    check_settings(GOOD._replace(format='torchscript', opset=1), {})


def test_slide_is_refused():
    test_cfg = dict(mode='slide', crop_size=(32, 48), stride=(16, 16))
    message = r"model.test_cfg.mode='slide'.*whole.*\(32, 48\)"
    with pytest.raises(ExportError, match=message):
        check_settings(GOOD, test_cfg)
