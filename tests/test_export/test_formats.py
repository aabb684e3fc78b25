import pytest
import torch
from torch import nn

from hmsa_mmseg.export import (
    ExportError,
    ExportSettings,
    formats,
    load,
    read_metadata,
)
from hmsa_mmseg.export.formats import check_available, to_bytes

FORMATS = {'onnx': '.onnx', 'torch-export': '.pt2'}
each_format = pytest.mark.parametrize('format', FORMATS)
each_reader = pytest.mark.parametrize('read', [load, read_metadata])


@each_reader
def test_unknown_formats(read, tmp_path):
    with pytest.raises(ExportError, match=r"one of .*'onnx'.*got 'tflite'"):
        read(tmp_path / 'model.tflite', 'tflite')
    with pytest.raises(ExportError, match=r"'torchscript'.* use 'onnx'"):
        read(tmp_path / 'model.pt', 'torchscript')


@each_reader
@each_format
def test_missing_and_damaged_files(read, format, tmp_path):
    path = tmp_path / f'model{FORMATS[format]}'
    with pytest.raises(FileNotFoundError, match=path.name):
        read(path, format)
    path.write_bytes(b'no such file')
    message = rf'{path.name} cannot be loaded by (onnxruntime|torch) as form'
    with pytest.raises(ExportError, match=message):
        read(str(path), format)


@each_format
def test_files_of_others(format, tmp_path):
    path = tmp_path / f'model{FORMATS[format]}'
    layer, image = nn.Conv2d(3, 2, 1).eval(), torch.randn(1, 3, 4, 4)
    if format == 'onnx':
        import onnx

        torch.onnx.export(layer, (image,), path, dynamo=False)
        model = onnx.load(path)
        # Properties of other tools are not always JSON.
        onnx.helper.set_model_props(model, dict(names="{0: 'road'}"))
        onnx.save(model, path)
    else:
        torch.export.save(torch.export.export(layer, (image,)), path)
    message = rf'{path.name} holds no metadata of hmsa_mmseg'
    with pytest.raises(ExportError, match=message):
        read_metadata(path, format)


@each_format
def test_metadata_are_those_of_the_file(format, tmp_path):
    path = tmp_path / f'model{FORMATS[format]}'
    about = dict(producer='hmsa_mmseg 1', size=[1, 2])
    layer, image = nn.Conv2d(3, 2, 1).eval(), torch.randn(2, 3, 8, 8)
    settings = ExportSettings(format, (8, 8))
    path.write_bytes(to_bytes(layer, image, settings, about))
    assert read_metadata(path, format) == about
    torch.testing.assert_close(load(path, format)(image), layer(image))


def test_an_opset_that_the_exporter_does_not_know():
    """It says nothing, and writes another one."""
    settings = ExportSettings('onnx', (8, 8), opset=99)
    image = torch.randn(2, 3, 8, 8)
    message = r'opset=99.* wrote opset \[\d\d\] inst'
    with pytest.raises(ExportError, match=message):
        to_bytes(nn.Conv2d(3, 2, 1).eval(), image, settings, {})


def test_weights_that_are_too_large(build_case, export, tmp_path, monkeypatch):
    aux = dict(
        type='FCNHead', in_channels=8, in_index=0, channels=8, num_classes=5
    )
    size = 4 * sum(x.numel() for x in build_case().state_dict().values())
    with_aux = build_case(auxiliary_head=aux)
    # What is stored in half precision is exported in single.
    with_aux.half()
    settings = ExportSettings('onnx', (64, 96))
    monkeypatch.setattr(formats, 'MAX_ONNX_BYTES', size + 1)
    check_available(settings, with_aux)
    monkeypatch.setattr(formats, 'MAX_ONNX_BYTES', size)
    check_available(settings._replace(format='torch-export'), with_aux)
    message = rf"onnx.* {size} bytes.*less than {size}.*'torch-export'"
    with pytest.raises(ExportError, match=message):
        export(with_aux)
    assert not any(tmp_path.iterdir())
