import pytest
import torch
from torch import nn

from hmsa_mmseg.export.reference import example_images, predict_expected
from hmsa_mmseg.export.settings import ExportError, ExportSettings

SETTINGS = ExportSettings('onnx', (40, 56), dynamic=True, scales=(1.0,))


def test_images_are_of_the_type_and_range_of_raw():
    raw = SETTINGS._replace(raw='uint8')
    images = example_images(raw)
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 40, 56)
    assert images.max() > 200
    assert images.min() < 50
    images = example_images(SETTINGS._replace(batch=3), channels=4)
    assert images.dtype == torch.float32
    assert images.shape == (3, 4, 40, 56)
    assert 0.3 < images.std() < 1


def test_odd_sizes_and_batches():
    expected = predict_expected(nn.Conv2d(3, 5, 1), SETTINGS)
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
        export(model, 'torchscript', classes=classes)
