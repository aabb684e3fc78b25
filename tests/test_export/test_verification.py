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


class _Model(nn.Module):
    """Three classes, from all parts of an image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


def check(predict, settings=SETTINGS, threshold=None, model=None):
    model = _Model() if model is None else model
    model.encode_decode = model.forward
    expected = predict_expected(model, settings)
    return list(verify(predict, expected, threshold, settings.classes))


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

    with pytest.raises(ExportError, match=r'model does: 2 x 40 x 56'):
        check(second_image, model=model)

    def other_size(x):
        return model(x) * (1 if x.shape[2] == 40 else 1.1)

    with pytest.raises(ExportError, match=r'model does: 1 x 49 x 51'):
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


def test_images_are_of_the_type_and_range_of_raw():
    images = random_images((2, 3, 40, 56), 'uint8')
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 40, 56)
    assert images.max() > 200
    assert images.min() < 50
    images = random_images((3, 4, 40, 56), None)
    assert images.dtype == torch.float32
    assert images.shape == (3, 4, 40, 56)
    assert 0.3 < images.std() < 1


def test_odd_sizes_and_batches():
    model = nn.Conv2d(3, 5, 1)
    model.encode_decode = model.forward
    expected = predict_expected(model, SETTINGS)
    assert [tuple(image.shape) for image, _ in expected] == [
        (1, 3, 40, 56),
        (2, 3, 40, 56),
        (1, 3, 49, 51),
    ]
    assert [logits.shape[1] for _, logits in expected] == [5, 5, 5]


@pytest.mark.parametrize('classes', [False, True])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_model_that_is_not_finite(classes, value, build_case, export):
    """Nothing would be compared: NaN has no margin."""
    model = build_case()
    model.decode_head.seg_head.conv_seg.bias.data[1] = value
    with pytest.raises(ExportError, match=r'itself .* not finite.* 64 x 96'):
        export(model, classes=classes)
