import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hmsa_mmseg.models.scale_fusion import (
    blend_scale,
    check_scales,
    exact_ratio,
    fuse_scales,
    resize,
    resize_image,
    scaled_size,
)


def up(x, size):
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


def outputs(input_size, scales, stride=4, classes=3, dtype=torch.float32):
    """Random logits and attention per scale, highest scale first."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for scale in sorted(scales, reverse=True):
        size = [math.ceil(s / stride) for s in scaled_size(input_size, scale)]
        logits = torch.randn(
            2, classes, *size, generator=generator, dtype=dtype
        )
        attn = torch.rand(2, 1, *size, generator=generator, dtype=dtype)
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
            product = up(attn * logits, pred.shape[2:])
            pred = product + (1 - up(attn, pred.shape[2:])) * pred
    return pred


@pytest.mark.parametrize('size', [(64, 96), (67, 131), (31, 33)])
@pytest.mark.parametrize(
    'scales',
    [(1.0,), (0.5, 1.0), (0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 1.5, 2.0)],
)
def test_equals_the_written_out_chain(size, scales):
    found = outputs(size, scales)
    torch.testing.assert_close(
        fuse_scales(found, size), authors_chain(found, size)
    )


def test_two_scales_equal_the_training_formula():
    (_, hi, _), (_, lo, attn) = found = outputs((66, 90), (0.5, 1.0))
    lo, attn = up(lo, (33, 45)), up(attn, (33, 45))
    expected = up(attn * lo, (66, 90)) + (1 - up(attn, (66, 90))) * up(
        hi, (66, 90)
    )
    torch.testing.assert_close(fuse_scales(found, (66, 90)), expected)


def test_attention_one_gives_the_lowest_scale():
    size = (67, 41)
    found = [(s, p, torch.ones_like(a)) for s, p, a in outputs(size, (0.5, 1))]
    lowest = up(up(found[1][1], scaled_size(size, 0.5)), size)
    torch.testing.assert_close(fuse_scales(found, size), lowest)


def test_attention_zero_gives_the_highest_scale():
    size = (67, 41)
    found = outputs(size, (0.5, 1, 2))
    found = [(s, p, torch.zeros_like(a)) for s, p, a in found]
    highest = up(up(found[0][1], scaled_size(size, 2)), size)
    torch.testing.assert_close(fuse_scales(found, size), highest)


def test_a_single_scale_of_one_is_the_plain_upsampling():
    (_, logits, _), *_ = found = outputs((50, 70), (1.0,))
    assert torch.equal(fuse_scales(found, (50, 70)), up(logits, (50, 70)))


def test_chain_equals_nested_pairs():
    size, scales = (64, 96), (0.25, 0.5, 1.0, 2.0)
    found = outputs(size, scales)
    nested = up(found[0][1], scaled_size(size, 2.0))
    for scale, logits, attn in found[1:]:
        at = scaled_size(size, scale)
        target = at if scale >= 1 else size
        nested = blend_scale(logits, attn, nested, at, target)
    assert torch.equal(fuse_scales(found, size), nested)


@pytest.mark.parametrize(
    'scales', [(0.5,), (2.0,), (0.5, 2.0), (1.5, 2.0), (0.25, 0.75)]
)
def test_without_scale_one_the_result_has_the_input_size(scales):
    found = outputs((37, 53), scales)
    fused = fuse_scales(found, (37, 53))
    assert fused.shape == (2, 3, 37, 53)
    # Constant logits and any attention: the blend is that constant.
    found = [(s, torch.full_like(p, 2.5), a) for s, p, a in found]
    torch.testing.assert_close(
        fuse_scales(found, (37, 53)), torch.full((2, 3, 37, 53), 2.5)
    )


def test_consumes_one_scale_at_a_time():
    alive = []

    def lazily():
        for scale, logits, attn in outputs((32, 32), (0.5, 1, 2)):
            alive.append(scale)
            yield scale, logits, attn
            assert alive == [2, 1, 0.5][: len(alive)]

    fuse_scales(lazily(), (32, 32))
    assert alive == [2, 1, 0.5]


def test_no_scale_is_an_error():
    with pytest.raises(ValueError, match='at least one scale'):
        fuse_scales([], (8, 8))


def test_gradients_in_float64():
    found = outputs((4, 5), (0.5, 1.0, 2.0), 2, 1, torch.float64)
    tensors = [t[:1].requires_grad_() for _, *pair in found for t in pair]
    tensors.pop(1)  # the highest scale's attention is not read

    def fused(hi, mid, mid_attn, lo, lo_attn):
        return fuse_scales(
            [(2.0, hi, None), (1.0, mid, mid_attn), (0.5, lo, lo_attn)],
            (4, 5),
        )

    assert torch.autograd.gradcheck(fused, tensors)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_blended_in_float32(dtype):
    found = outputs((32, 48), (0.5, 1.0, 2.0))
    half = [(s, p.to(dtype), a.to(dtype)) for s, p, a in found]
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


def test_convention_floor_of_scaled_sizes():
    assert scaled_size((131, 203), 0.5) == (65, 101)
    assert scaled_size((131, 203), 1.5) == (196, 304)
    assert scaled_size((3, 1), 0.25) == (1, 1)


def test_integer_sizes_are_those_of_float64():
    assert exact_ratio(0.25) == (1, 4)
    assert exact_ratio(1.75) == (7, 4)
    assert exact_ratio(2) == (2, 1)
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


def test_check_scales_sorts():
    assert check_scales([2, 0.5, 1.0], 'key') == (0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    'scales',
    [
        *((), (0.0, 1.0), (-0.5, 1.0), (1.0, 1), (float('nan'), 1.0)),
        *((float('inf'), 1.0), ('0.5', 1.0), '0.5', 0.5, None, (True, 0.5)),
    ],
)
def test_bad_scales_are_named(scales):
    with pytest.raises(ValueError, match=r'model\.test_cfg\.scales must be'):
        check_scales(scales, 'model.test_cfg.scales')


def test_too_few_scales():
    with pytest.raises(ValueError, match=r'2 or more .*\(1\.0,\)'):
        check_scales((1.0,), 'model.train_cfg.scales', min_scales=2)
