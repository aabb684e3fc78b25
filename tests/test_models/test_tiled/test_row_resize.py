import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hmsa_mmseg.models.tiled.row_resize import (
    bilinear_taps,
    needed_sizes,
    resize_rows,
    source_rows,
)

sides = st.integers(1, 40)


@settings(max_examples=200, deadline=None)
@given(st.data(), sides, sides, sides, sides, st.booleans(), st.booleans())
def test_equals_interpolate(data, h, w, height, width, align_corners, double):
    dtype = torch.float64 if double else torch.float32
    start = data.draw(st.integers(0, height - 1))
    rows = slice(start, data.draw(st.integers(start + 1, height)))
    x = torch.randn(2, 3, h, w, dtype=dtype)
    whole = F.interpolate(
        x, (height, width), mode='bilinear', align_corners=align_corners
    )
    source = source_rows(rows, h, height, align_corners)
    found = resize_rows(
        x[:, :, source], source, h, rows, (height, width), align_corners
    )
    torch.testing.assert_close(found, whole[:, :, rows], rtol=1e-5, atol=3e-5)
    if double:
        torch.testing.assert_close(
            found, whole[:, :, rows], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize('align_corners', [False, True])
def test_weights_are_those_of_pytorch_at_large_sizes(align_corners):
    """In float32 the position of row 4000 is good to 2e-4 of a row only."""
    x = torch.randn(1, 1, 1367, 1)
    rows = slice(4000, 4100)
    source = source_rows(rows, 1367, 4101, align_corners)
    found = resize_rows(
        x[:, :, source], source, 1367, rows, (4101, 1), align_corners
    )
    whole = F.interpolate(
        x, (4101, 1), mode='bilinear', align_corners=align_corners
    )
    torch.testing.assert_close(found, whole[:, :, rows], rtol=0, atol=2e-6)


def test_taps_of_inference_can_be_trained_with():
    args = 341, 2048, False, torch.float32, torch.device('cpu')
    bilinear_taps.cache_clear()
    with torch.inference_mode():
        taps = bilinear_taps(*args)
    assert not any(tap.is_inference() for tap in taps)
    assert all(a is b for a, b in zip(taps, bilinear_taps(*args)))


SIZES = [
    ((16, 32), (64, 128)),
    ((17, 25), (67, 99)),
    ((67, 99), (33, 49)),
    ((33, 49), (33, 200)),
    ((33, 49), (131, 49)),
    ((1, 1), (5, 7)),
    ((9, 11), (1, 1)),
]


@pytest.mark.parametrize(('size', 'out_size'), SIZES)
@pytest.mark.parametrize('align_corners', [False, True])
def test_gradients_of_tiles_add_up(size, out_size, align_corners):
    x = torch.randn(1, 3, *size, dtype=torch.float64, requires_grad=True)
    whole = F.interpolate(
        x, out_size, mode='bilinear', align_corners=align_corners
    )
    weight = torch.randn_like(whole)
    (expected,) = torch.autograd.grad(whole, x, weight)
    total = torch.zeros_like(x)
    height = out_size[0]
    for start in range(0, height, 7):
        rows = slice(start, min(start + 7, height))
        source = source_rows(rows, size[0], height, align_corners)
        found = resize_rows(
            x[:, :, source], source, size[0], rows, out_size, align_corners
        )
        total += torch.autograd.grad(found, x, weight[:, :, rows])[0]
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-11)


def test_a_chain_leaves_out_sizes_that_change_nothing():
    sizes = (32, 64), (128, 256), (64, 128), (64, 128)
    assert needed_sizes(sizes, False) == [(32, 64), (64, 128)]
    assert needed_sizes(sizes, True) == list(sizes[:3])
    # 12 = 6 * 2: there, halving averages points in different pixels.
    sizes = [(2, 2), (12, 12), (6, 6)]
    assert needed_sizes(sizes, False) == sizes
