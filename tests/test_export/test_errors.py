"""What cannot be exported, and what is said about it."""

import sys

import pytest
import torch
from torch import nn

from hmsa_mmseg.export import (
    ExportError,
    ExportSettings,
    exporting,
    formats,
)
from hmsa_mmseg.export.formats import check_available

from .conftest import SUFFIX


class _ChoosesByValue(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else 2 * x


class _Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class _CudaOnly(nn.Module):
    def forward(self, x):
        raise RuntimeError('this operator is not implemented for the CPU')


class _BakesTheBatch(nn.Module):
    def forward(self, x):
        return x.reshape(int(x.shape[0]), -1, *x.shape[2:])


@pytest.mark.parametrize(
    ('layer', 'format', 'message'),
    [
        (
            *(_Bessel, 'onnx'),
            r'exporter refused.*bessel_j0.*opset=20 or 21.*format=torch-exp',
        ),
        (
            *(_ChoosesByValue, 'torch-export'),
            r'exporter refused.*Try .*format=onnx',
        ),
        (
            *(_CudaOnly, 'onnx'),
            r'seg_head.convs.1 \(_CudaOnly\) does not run on the CPU.*'
            r'not implemented for the CPU',
        ),
        (_BakesTheBatch, 'onnx', r'does not run for 1 x 64.*Try batch=1'),
        (
            *(_BakesTheBatch, 'torch-export'),
            r'exporter refused.*Try batch=1, as a layer .* constant',
        ),
    ],
)
@pytest.mark.fault(
    'a layer that cannot be exported',
    'an error with what to try; the old file stays',
)
def test_what_cannot_be_exported(
    layer, format, message, build_case, export, tmp_path
):
    model = build_case(test_cfg=dict(mode='whole', scales=(1.0,)))
    seg_head = model.decode_head.seg_head
    seg_head.convs = nn.Sequential(seg_head.convs, layer())
    old = tmp_path / f'model{SUFFIX[format]}'
    old.write_bytes(b'what stood here before')
    with pytest.raises(ExportError, match=message):
        export(model, format)
    assert old.read_bytes() == b'what stood here before'
    assert [*tmp_path.iterdir()] == [old]


@pytest.mark.parametrize('format', ['onnx', 'torch-export'])
@pytest.mark.fault(
    'the exported file cannot be loaded',
    'an error; the old file stays',
)
def test_a_file_that_cannot_be_loaded(
    format, build_case, export, tmp_path, monkeypatch
):
    old = tmp_path / f'model{SUFFIX[format]}'
    old.write_bytes(b'what stood here before')
    monkeypatch.setattr(exporting, 'to_bytes', lambda *_: b'cut short')
    with pytest.raises(ExportError, match=r'cannot be loaded by .*Try .*form'):
        export(build_case(), format)

    def load(path, format):
        raise PermissionError(13, 'not allowed', str(path))

    monkeypatch.setattr(exporting, 'load', load)
    with pytest.raises(PermissionError, match='not allowed'):
        export(build_case(), format)
    assert old.read_bytes() == b'what stood here before'
    assert [*tmp_path.iterdir()] == [old]


@pytest.mark.parametrize(
    ('package', 'opset'), [('onnxruntime', 17), ('onnxscript', 21)]
)
@pytest.mark.fault(
    'packages for the export are missing',
    'an error with the pip line',
)
def test_missing_packages(package, opset, build_case, export, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'opset={opset} needs {package}; .*hmsa_mmseg\[export\]'
    with pytest.raises(ExportError, match=message):
        export(build_case(), opset=opset)


def test_other_models_and_an_old_torch(build_case, export, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, '__version__', '2.8.0+cpu')
        with pytest.raises(ExportError, match=r'torch 2\.9 .*onnx.*opset=20'):
            export(build_case(), opset=21)
    with pytest.raises(ExportError, match=r'expected a MultiScale.*Conv2d'):
        export(nn.Conv2d(1, 1, 1))
    model = build_case()
    with pytest.raises(ValueError, match=r'scales must be .*-1'):
        export(model, scales=(-1.0,))
    model.test_cfg = None
    with pytest.raises(ValueError, match=r'model.test_cfg.scales.*None'):
        export(model)


@pytest.mark.fault(
    'weights above the limit of ONNX',
    'refused, with the format that takes them',
)
def test_weights_that_are_too_large(build_case, export, tmp_path, monkeypatch):
    aux = dict(
        type='FCNHead', in_channels=8, in_index=0, channels=8, num_classes=5
    )
    size = 4 * sum(x.numel() for x in build_case().state_dict().values())
    # What is stored in half precision is exported in single.
    with_aux = build_case(auxiliary_head=aux).half()
    settings = ExportSettings('onnx', (64, 96))
    monkeypatch.setattr(formats, 'MAX_ONNX_BYTES', size + 1)
    check_available(settings, with_aux)
    monkeypatch.setattr(formats, 'MAX_ONNX_BYTES', size)
    check_available(settings._replace(format='torch-export'), with_aux)
    message = rf"onnx.* {size} bytes.*less than {size}.*'torch-export'"
    with pytest.raises(ExportError, match=message):
        export(with_aux)
    assert not any(tmp_path.iterdir())


@pytest.mark.fault(
    'NaN in a weight: export',
    'refused, with the size of the image',
)
def test_a_model_that_is_not_finite(build_case, export):
    """Nothing would be compared: NaN has no margin."""
    model = build_case()
    model.decode_head.seg_head.conv_seg.bias.data[1] = torch.nan
    with pytest.raises(ExportError, match=r'itself .* not finite.* 64 x 96'):
        export(model, classes=True)
