import pytest
import torch
from torch import nn

from hmsa_mmseg.export import ExportError, ExportSettings, onnx_files
from hmsa_mmseg.export.onnx_files import check_weights_fit, onnx_bytes


def test_an_opset_that_the_exporter_does_not_know():
    """It says nothing, and writes another one."""
    settings = ExportSettings('onnx', (8, 8), opset=99)
    image = torch.randn(2, 3, 8, 8)
    with pytest.raises(ExportError, match=r'opset=99.* wrote opset \d\d inst'):
        onnx_bytes(nn.Conv2d(3, 2, 1).eval(), image, settings, {})


def test_weights_that_are_too_large(build_case, export, tmp_path, monkeypatch):
    aux = dict(
        type='FCNHead', in_channels=8, in_index=0, channels=8, num_classes=5
    )
    model = build_case()
    size = sum(x.nbytes for x in (*model.parameters(), *model.buffers()))
    with_aux = build_case(auxiliary_head=aux)
    # What is stored in half precision is exported in single.
    with_aux.half()
    monkeypatch.setattr(onnx_files, 'MAX_BYTES', size + 1)
    check_weights_fit(with_aux)
    monkeypatch.setattr(onnx_files, 'MAX_BYTES', size)
    message = rf"onnx.* {size} bytes.*less than {size}.*'torchscript'"
    with pytest.raises(ExportError, match=message):
        export(with_aux)
    assert not any(tmp_path.iterdir())
    export(model, 'torchscript', scales=(1.0,))
