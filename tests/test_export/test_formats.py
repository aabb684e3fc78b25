"""Files that are read, and what they say of themselves."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hmsa_mmseg.export import (
    ExportError,
    ExportSettings,
    exporting,
    load,
    read_metadata,
)
from hmsa_mmseg.export.exporting import describe
from hmsa_mmseg.export.formats import to_bytes

from .conftest import SUFFIX

NAMES = ('road', 'sidewalk', 'wall', 'pole', 'sky')
SETTINGS = ExportSettings('onnx', (64, 96), batch=1, scales=(0.5, 1.0))


@pytest.mark.parametrize('read', [load, read_metadata])
@pytest.mark.fault(
    'an exported file is missing or damaged',
    'an error with its path',
)
def test_missing_and_damaged_files(read, tmp_path):
    with pytest.raises(ExportError, match=r"'torchscript'.* use 'onnx'"):
        read(tmp_path / 'model', 'torchscript')
    for format, suffix in SUFFIX.items():
        path = tmp_path / f'model{suffix}'
        with pytest.raises(FileNotFoundError, match=path.name):
            read(path, format)
        path.write_bytes(b'no such file')
        message = rf'{path.name} cannot be loaded by (onnxruntime|torch) as f'
        with pytest.raises(ExportError, match=message):
            read(str(path), format)


@pytest.mark.parametrize('format', SUFFIX)
def test_metadata_are_those_of_the_file(format, tmp_path):
    path = tmp_path / f'model{SUFFIX[format]}'
    about = dict(producer='hmsa_mmseg 1', size=[1, 2])
    layer, image = nn.Conv2d(3, 2, 1).eval(), torch.randn(2, 3, 8, 8)
    settings = ExportSettings(format, (8, 8))
    path.write_bytes(to_bytes(layer, image, settings, about))
    assert read_metadata(path, format) == about
    # Without our code as well.
    if format == 'onnx':
        session = onnxruntime.InferenceSession(path)
        found = session.get_modelmeta().custom_metadata_map
        found = {key: json.loads(value) for key, value in found.items()}
    else:
        files = {'metadata.json': ''}
        torch.export.load(path, extra_files=files)
        found = json.loads(files['metadata.json'])
    assert found == about
    torch.testing.assert_close(load(path, format)(image), layer(image))
    # Files of others have none.
    if format == 'onnx':
        model = onnx.load(path)
        # Properties of other tools are not always JSON.
        onnx.helper.set_model_props(model, dict(names="{0: 'road'}"))
        onnx.save(model, path)
    else:
        torch.export.save(torch.export.export(layer, (image,)), path)
    message = rf'{path.name} holds no metadata of hmsa_mmseg'
    with pytest.raises(ExportError, match=message):
        read_metadata(path, format)


def test_an_opset_that_the_exporter_does_not_know():
    """It says nothing, and writes another one."""
    settings = ExportSettings('onnx', (8, 8), opset=99)
    image = torch.randn(2, 3, 8, 8)
    message = r'opset=99.* wrote opset \[\d\d\] inst'
    with pytest.raises(ExportError, match=message):
        to_bytes(nn.Conv2d(3, 2, 1).eval(), image, settings, {})


def test_all_that_is_known(build_case):
    model = build_case()
    colours = np.arange(15, dtype=np.uint8).reshape(5, 3)
    model.dataset_meta = dict(classes=NAMES, palette=colours)
    found = describe(model, SETTINGS._replace(raw='float32', opset=16))
    assert json.loads(json.dumps(found)) == found
    assert found.pop('producer').startswith('hmsa_mmseg ')
    np.testing.assert_allclose(found.pop('mean'), [123.675, 116.28, 103.53])
    np.testing.assert_allclose(found.pop('std'), [58.395, 57.12, 57.375])
    assert found == dict(
        torch=torch.__version__,
        opset=16,
        scales=[0.5, 1.0],
        size=[64, 96],
        dynamic=False,
        batch=1,
        raw='float32',
        output='seg_logits',
        threshold=None,
        num_classes=5,
        classes=list(NAMES),
        palette=colours.tolist(),
        flips_channels=True,
    )
    found = describe(model, SETTINGS._replace(format='torch-export'))
    assert found['opset'] is None


def test_what_is_not_known(build_case, monkeypatch):
    unknown = ('mean', 'std', 'classes', 'palette')
    model = build_case(data_preprocessor=dict(type='SegDataPreProcessor'))
    found = describe(model, SETTINGS)
    assert [found[name] for name in unknown] == [None] * 4
    assert found['flips_channels'] is False
    model.data_preprocessor = nn.Identity()
    model.data_preprocessor.mean = None
    # Nor are other classes than those of the model.
    said = []
    monkeypatch.setattr(
        exporting, 'print_log', lambda text, **_: said.append(text)
    )
    model.dataset_meta = dict(classes=NAMES[:4], palette=[[1, 2, 3]] * 4)
    found = describe(model, SETTINGS)
    assert [found[name] for name in unknown] == [None] * 4
    assert found['flips_channels'] is None
    (warning,) = said
    assert 'dataset_meta names 4, the model has 5' in warning
