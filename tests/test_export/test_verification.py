import pytest
import torch
from torch import nn

from hmsa_mmseg.export import ExportError, ExportSettings
from hmsa_mmseg.export.verification import (
    predict_expected,
    random_images,
    verify,
)

SETTINGS = ExportSettings('onnx', (40, 56), dynamic=True, scales=(1.0,))


@pytest.fixture
def model():
    """Three classes, from all parts of an image."""
    return nn.Conv2d(3, 3, 3, padding=1)


def check(predict, model, settings=SETTINGS, threshold=None):
    model.encode_decode = model.forward
    expected = predict_expected(model, settings)
    return list(verify(predict, expected, threshold, settings.classes))


def test_what_agrees(model):
    found = check(lambda x: model(x) * (1 + 1e-5), model)
    assert [(one.batch, one.size) for one in found] == [
        (1, (40, 56)),
        (2, (40, 56)),
        (1, (49, 51)),
    ]
    assert [one.equal_pixels for one in found] == [1, 1, 1]
    assert all(5e-6 < one.difference < 2e-5 for one in found)
    assert [one.num_found for one in found] == [3, 3, 3]
    assert str(found[0]).startswith('1 x 40 x 56: 100.0000% of pixels')
    classes = SETTINGS._replace(classes=True)
    found = check(lambda x: model(x).argmax(1), model, classes)
    assert [one.difference for one in found] == [None, None, None]


@pytest.mark.parametrize(
    'wrong',
    [
        lambda y: y * 1.01,
        # The same classes: NaN comes first.
        lambda y: y.where(y < y.amax(1, keepdim=True), torch.nan),
        lambda y: y.flip(1),
        lambda y: nn.functional.pad(y, (1, 0))[..., :-1],
        lambda y: torch.cat([y[..., :-1], -y[..., -1:]], dim=-1),
    ],
)
def test_what_does_not(wrong, model):
    with pytest.raises(ExportError, match=r'does not predict.*1 x 40 x 56'):
        check(lambda x: wrong(model(x)), model)


def test_wrong_at_some_places_only(model):
    def second_image(x):
        y = model(x)
        y[1:] *= 1.1
        return y

    def other_size(x):
        return model(x) * (1 if x.shape[2] == 40 else 1.1)

    def one_row_of_classes(x):
        found = model(x).argmax(1)
        found[:, 0] = (found[:, 0] + 1) % 3
        return found

    classes = SETTINGS._replace(classes=True)
    for predict, settings, message in (
        (second_image, SETTINGS, r'model does: 2 x 40 x 56'),
        (other_size, SETTINGS, r'model does: 1 x 49 x 51'),
        (one_row_of_classes, classes, r'9\d\.\d+% of pixels'),
        (
            *(lambda x: model(x)[..., 1:], SETTINGS),
            r'gives shape \(1, 3, 40, 55\)',
        ),
    ):
        with pytest.raises(ExportError, match=message):
            check(predict, model, settings)


def test_a_tie_may_go_either_way_and_one_channel():
    settings = SETTINGS._replace(classes=True, dynamic=False)
    tied = nn.Identity()
    tied.forward = lambda x: torch.cat([x[:, :1], x[:, :1] - 1e-4], dim=1)
    found = check(lambda x: torch.ones_like(x[:, 0]), tied, settings)
    assert [one.equal_pixels for one in found] == [0, 0]
    assert [one.tied_pixels for one in found] == [1, 1]
    assert [one.num_found for one in found] == [1, 1]
    single = nn.Identity()
    single.forward = lambda x: x[:, :1]
    found = check(lambda x: x[:, 0].sigmoid() > 0.7, single, settings, 0.7)
    assert [one.equal_pixels for one in found] == [1, 1]
    with pytest.raises(ExportError, match='does not predict'):
        check(lambda x: x[:, 0].sigmoid() > 0.6, single, settings, 0.7)


def test_images_are_of_the_type_and_range_of_raw():
    images = random_images((2, 3, 40, 56), 'uint8')
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 40, 56)
    assert images.max() > 200
    assert images.min() < 50
    images = random_images((3, 4, 40, 56), None)
    assert images.dtype == torch.float32
    assert 0.3 < images.std() < 1
