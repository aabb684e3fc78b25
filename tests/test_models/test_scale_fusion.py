import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hmsa_mmseg.models.scale_fusion import (
    check_scales,
    exact_ratio,
    fuse_scales,
    resize,
    resize_image,
    scaled_size,
)


def up(x, size):
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


def outputs(input_size, scales):
    """Random logits and attention per scale, highest scale first."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for scale in sorted(scales, reverse=True):
        size = [math.ceil(s / 4) for s in scaled_size(input_size, scale)]
        logits = torch.randn(2, 3, *size, generator=generator)
        attn = torch.rand(2, 1, *size, generator=generator)
        found.append((scale, logits, attn))
    return found


def authors_chain(found, input_size):
    """The equations of the paper, written out with full-size maps.

    Each scale's maps are brought to that scale's size; above 1.0 the blend is
    brought down to it, below 1.0 product and attention are brought up.
    """
    pred = None
    for scale, logits, attn in found:
        size = scaled_size(input_size, scale)
        logits, attn = up(logits, size), up(attn, size)
        if pred is None:
            pred = logits
        elif scale >= 1.0:
            pred = attn * logits + (1 - attn) * up(pred, size)
        else:
            # As it is already, if 1.0 is among the scales.
            pred = up(pred, input_size)
            product = up(attn * logits, pred.shape[2:])
            pred = product + (1 - up(attn, pred.shape[2:])) * pred
    return up(pred, input_size)


@pytest.mark.parametrize('size', [(64, 96), (67, 131), (31, 33)])
@pytest.mark.parametrize(
    'scales',
    [(1.0,), (0.5, 1.0), (0.25, 0.5, 1.0, 1.5, 2.0), (0.5, 2.0), (0.75,)],
)
def test_equals_the_written_out_chain(size, scales):
    found = outputs(size, scales)
    torch.testing.assert_close(
        fuse_scales(found, size), authors_chain(found, size)
    )


def test_consumes_one_scale_at_a_time():
    with pytest.raises(ValueError, match='at least one scale'):
        fuse_scales([], (8, 8))
    alive = []

    def lazily():
        for scale, logits, attn in outputs((32, 32), (0.5, 1, 2)):
            alive.append(scale)
            yield scale, logits, attn
            assert alive == [2, 1, 0.5][: len(alive)]

    fuse_scales(lazily(), (32, 32))
    assert alive == [2, 1, 0.5]


def test_half_precision_inputs_are_blended_in_float32():
    found = outputs((32, 48), (0.5, 1.0, 2.0))
    half = [(s, p.bfloat16(), a.bfloat16()) for s, p, a in found]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        fused = fuse_scales(half, (32, 48))
    assert fused.dtype == torch.float32
    same = [(s, p.float(), a.float()) for s, p, a in half]
    assert torch.equal(fused, fuse_scales(same, (32, 48)))


def test_convention_align_corners():
    x = torch.arange(4.0).view(1, 1, 1, 4)
    edges = resize(x, (1, 8), align_corners=True)[0, 0, 0]
    centers = resize(x, (1, 8), align_corners=False)[0, 0, 0]
    torch.testing.assert_close(edges, torch.linspace(0, 3, 8))
    assert centers[1] == 0.25


def test_scaled_sizes_are_floored_as_in_float64():
    assert scaled_size((131, 203), 1.5) == (196, 304)
    assert scaled_size((3, 1), 0.25) == (1, 1)
    assert exact_ratio(1.75) == (7, 4)
    # In float64 10 * 0.7 is 7, while 0.7 itself is less than 7 / 10.
    assert exact_ratio(0.7) is None
    assert scaled_size((10, 20), 0.7) == (7, 14)
    for scale in [k / 64 for k in range(1, 200)]:
        assert exact_ratio(scale) is not None
        for side in (1, 31, 1023, 2048, 65535):
            expected = max(int(side * scale), 1)
            assert scaled_size((side, side), scale) == (expected, expected)


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    scale=st.floats(0.1, 3.0),
)
def test_scaled_size_is_that_of_interpolate(height, width, scale):
    size = scaled_size((height, width), scale)
    if min(height * scale, width * scale) >= 1:
        scaled = F.interpolate(
            torch.zeros(1, 1, height, width),
            scale_factor=scale,
            mode='bilinear',
            align_corners=False,
            recompute_scale_factor=True,
        )
        assert size == tuple(scaled.shape[2:])
    assert min(size) >= 1


def test_resize_image_keeps_the_dtype():
    image = torch.randn(1, 3, 8, 8).to(torch.bfloat16)
    assert resize_image(image, 0.5, False).dtype == torch.bfloat16
    assert torch.equal(resize_image(image, 1.0, False), image)


@pytest.mark.parametrize(
    'scales',
    [
        *((), (0.0, 1.0), (-0.5, 1.0), (1.0, 1), (float('nan'), 1.0)),
        *((float('inf'), 1.0), ('0.5', 1.0), '0.5', 0.5, None, (True, 0.5)),
    ],
)
@pytest.mark.fault(
    'scales that are empty, doubled, 0, negative, NaN or no numbers',
    'refused, with the setting and what was found',
)
def test_bad_scales_are_named(scales):
    with pytest.raises(ValueError, match=r'model\.test_cfg\.scales must be'):
        check_scales(scales, 'model.test_cfg.scales')


@pytest.mark.fault(
    'scales in any order; one scale for training',
    'sorted; refused for training',
)
def test_scales_are_sorted_and_counted():
    assert check_scales([2, 0.5, 1.0], 'key') == (0.5, 1.0, 2.0)
    with pytest.raises(ValueError, match=r'2 or more .*\(1\.0,\)'):
        check_scales((1.0,), 'model.train_cfg.scales', min_scales=2)
