import json

import pytest
import torch
from torch import nn

from hmsa_mmseg.export import ExportError, load, read_metadata

FORMATS = {'onnx': '.onnx', 'torchscript': '.pt', 'torch-export': '.pt2'}
each_format = pytest.mark.parametrize('format', FORMATS)
each_reader = pytest.mark.parametrize('read', [load, read_metadata])


@each_reader
def test_unknown_formats(read, tmp_path):
    with pytest.raises(ExportError, match=r"one of .*'onnx'.*got 'tflite'"):
        read(tmp_path / 'model.tflite', 'tflite')


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
    elif format == 'torchscript':
        torch.jit.save(torch.jit.trace(layer, image), path)
    else:
        torch.export.save(torch.export.export(layer, (image,)), path)
    message = rf'{path.name} holds no metadata of hmsa_mmseg'
    with pytest.raises(ExportError, match=message):
        read_metadata(path, format)


def test_metadata_are_those_of_the_file(tmp_path):
    path = tmp_path / 'model.pt'
    traced = torch.jit.trace(nn.Identity(), torch.zeros(1))
    about = dict(producer='hmsa_mmseg 1', size=[1, 2])
    files = {'metadata.json': json.dumps(about)}
    torch.jit.save(traced, path, _extra_files=files)
    assert read_metadata(path, 'torchscript') == about
    image = torch.randn(3)
    assert torch.equal(load(path, 'torchscript')(image), image)
