import pytest
import torch
from mmseg.models import SegDataPreProcessor
from torch import nn

from hmsa_mmseg import compat
from hmsa_mmseg.export import ExportError
from hmsa_mmseg.export.graph import (
    Normalise,
    copy_for_inference,
    flips_channels,
)

NUMBERS = dict(mean=[10.0, 20.0, 30.0], std=[4.0, 5.0, 6.0])
FOUR = dict(mean=[10.0, 20.0, 30.0, 40.0], std=[4.0, 5.0, 6.0, 7.0])


class _Model(nn.Module):
    def __init__(self, preprocessor):
        super().__init__()
        self.data_preprocessor = preprocessor


@pytest.mark.parametrize(
    ('kwargs', 'flips'),
    [
        (dict(**NUMBERS, rgb_to_bgr=True), True),
        (dict(bgr_to_rgb=True), True),
        pytest.param(
            dict(**FOUR, bgr_to_rgb=True),
            False,
            marks=pytest.mark.skipif(
                compat.is_forked(), reason='the fork takes 1 or 3 channels'
            ),
        ),
    ],
)
def test_normalisation_is_that_of_mmseg(kwargs, flips):
    preprocessor = SegDataPreProcessor(**kwargs)
    model = _Model(preprocessor)
    assert flips_channels(model) is flips
    channels = len(kwargs.get('mean', range(3)))
    images = torch.randint(256, (2, channels, 5, 7), dtype=torch.uint8)
    expected = preprocessor(dict(inputs=list(images)))['inputs']
    found = Normalise(model)(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


class _Inherits(SegDataPreProcessor):
    pass


class _Gamma(SegDataPreProcessor):
    def forward(self, data, training=False):
        data = super().forward(data, training)
        return {**data, 'inputs': data['inputs'] ** 0.5}


def test_other_preprocessors():
    model = _Model(_Inherits(**NUMBERS))
    assert Normalise(model)(torch.full((1, 3, 1, 1), 40.0))[0, 0] == 7.5
    with pytest.raises(ExportError, match=r'SegDataPreProcessor .*got _Gamma'):
        Normalise(_Model(_Gamma(**NUMBERS)))
    other = _Model(nn.Identity())
    with pytest.raises(ExportError, match=r'got Identity.*without raw'):
        Normalise(other)
    assert flips_channels(other) is None


def test_a_copy_is_of_what_predicts(build_case):
    aux = dict(
        type='FCNHead', in_channels=8, in_index=0, channels=8, num_classes=5
    )
    model = build_case(auxiliary_head=[aux, aux]).half()
    copied = copy_for_inference(model, (1.0,))
    names = {name for name, _ in model.named_parameters()}
    gone = names - {name for name, _ in copied.named_parameters()}
    assert {name.partition('.')[0] for name in gone} == {'auxiliary_head'}
    assert {x.dtype for x in copied.parameters()} == {torch.float32}
    assert {x.dtype for x in model.parameters()} == {torch.float16}
    assert dict(copied.test_cfg) == dict(mode='whole', scales=(1.0,))
