import json

import numpy as np
import pytest
import torch
from torch import nn

from hmsa_mmseg.export import ExportSettings, exporting
from hmsa_mmseg.export.exporting import describe

NAMES = ('road', 'sidewalk', 'wall', 'pole', 'sky')
SETTINGS = ExportSettings('onnx', (64, 96), batch=1, scales=(0.5, 1.0))


@pytest.fixture
def said(monkeypatch):
    said = []
    monkeypatch.setattr(
        exporting, 'print_log', lambda text, **_: said.append(text)
    )
    return said


def test_all_that_is_known(build_case, said):
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
    assert said == []
    found = describe(model, SETTINGS._replace(format='torch-export'))
    assert found['opset'] is None


def test_what_is_not_known(build_case):
    model = build_case(data_preprocessor=dict(type='SegDataPreProcessor'))
    found = describe(model, SETTINGS)
    assert found['flips_channels'] is False
    unknown = ('mean', 'std', 'classes', 'palette')
    assert [found[name] for name in unknown] == [None] * 4
    model.data_preprocessor = nn.Identity()
    model.data_preprocessor.mean = None
    found = describe(model, SETTINGS)
    assert found['flips_channels'] is None
    assert [found[name] for name in unknown] == [None] * 4


def test_other_classes_than_those_of_the_model(build_case, said):
    model = build_case()
    model.dataset_meta = dict(classes=NAMES[:4], palette=[[1, 2, 3]] * 4)
    found = describe(model, SETTINGS)
    assert found['classes'] is None
    assert found['palette'] is None
    (warning,) = said
    assert 'dataset_meta names 4, the model has 5' in warning
