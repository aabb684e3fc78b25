import pytest
import torch
from torch import nn

from hmsa_mmseg.export.reference import predict_expected
from hmsa_mmseg.export.settings import ExportError, ExportSettings
from hmsa_mmseg.export.verification import verify

SETTINGS = ExportSettings('onnx', (40, 56), dynamic=True, scales=(1.0,))


class _Model(nn.Module):
    """Three classes, from all parts of an image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


def check(predict, settings=SETTINGS, threshold=None, model=None):
    model = _Model() if model is None else model
    expected = predict_expected(model, settings)
    return list(verify(predict, expected, threshold, settings))


def test_what_agrees():
    model = _Model()
    found = check(lambda x: model(x) * (1 + 1e-5), model=model)
    assert [one.equal_pixels for one in found] == [1, 1, 1]
    assert all(5e-6 < one.difference < 2e-5 for one in found)
    assert [one.num_found for one in found] == [3, 3, 3]
    tied = found[0]._replace(tied_pixels=0.0125)
    assert str(tied) == (
        '1 x 40 x 56: 100.0000% of pixels of the same class, logits differ '
        'by 1.0e-05 of the largest at most (3 classes found, 1.2500% of '
        'pixels tied)'
    )
    classes = SETTINGS._replace(classes=True)
    found = check(lambda x: model(x).argmax(1), classes, model=model)
    assert [one.difference for one in found] == [None, None, None]


@pytest.mark.parametrize(
    'wrong',
    [
        lambda y: y * 1.01,
        lambda y: y * float('nan'),
        lambda y: y.flip(1),
        lambda y: nn.functional.pad(y, (1, 0))[..., :-1],
        lambda y: torch.cat([y[..., :-1], -y[..., -1:]], dim=-1),
    ],
)
def test_what_does_not(wrong):
    model = _Model()
    with pytest.raises(ExportError, match=r'does not predict.*1 x 40 x 56'):
        check(lambda x: wrong(model(x)), model=model)


def test_wrong_at_some_shapes_only():
    model = _Model()

    def second_image(x):
        y = model(x)
        y[1:] *= 1.1
        return y

    with pytest.raises(ExportError, match=r'2 x 40 x 56.*Try batch=1'):
        check(second_image, model=model)

    def other_size(x):
        return model(x) * (1 if x.shape[2] == 40 else 1.1)

    with pytest.raises(ExportError, match=r'1 x 49 x 51.*dynamic=False'):
        check(other_size, model=model)


def test_wrong_classes_and_shapes():
    model = _Model()
    classes = SETTINGS._replace(classes=True)

    def one_wrong_row(x):
        found = model(x).argmax(1)
        found[:, 0] = (found[:, 0] + 1) % 3
        return found

    with pytest.raises(ExportError, match=r'9\d\.\d+% of pixels'):
        check(one_wrong_row, classes, model=model)
    with pytest.raises(ExportError, match=r'gives shape \(1, 3, 40, 55\)'):
        check(lambda x: model(x)[..., 1:], model=model)


def test_a_tie_may_go_either_way():
    settings = SETTINGS._replace(classes=True, dynamic=False)

    class Tied(nn.Module):
        def forward(self, x):
            return x[:, :1].repeat(1, 2, 1, 1)

    def second(x):
        return torch.ones(len(x), *x.shape[2:], dtype=torch.uint8)

    found = check(second, settings, model=Tied())
    assert [one.equal_pixels for one in found] == [0, 0]
    assert [one.tied_pixels for one in found] == [1, 1]
    assert [one.num_found for one in found] == [1, 1]


def test_one_channel():
    settings = SETTINGS._replace(classes=True)

    class Single(nn.Module):
        def forward(self, x):
            return x[:, :1]

    found = check(lambda x: x[:, 0].sigmoid() > 0.7, settings, 0.7, Single())
    assert [one.equal_pixels for one in found] == [1, 1, 1]
    with pytest.raises(ExportError, match='does not predict'):
        check(lambda x: x[:, 0].sigmoid() > 0.6, settings, 0.7, Single())
