"""Some rows of resized, blended and convolved maps, against whole ones."""

import math
from contextlib import nullcontext
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models.cases import set_costs
from torch.utils._python_dispatch import TorchDispatchMode

from hmsa_mmseg.models.scale_fusion import fuse_scales, scaled_size
from hmsa_mmseg.models.tiled.decisions import decide
from hmsa_mmseg.models.tiled.logit_rows import FusedLogits, WholeLogits
from hmsa_mmseg.models.tiled.pyramid_conv import conv_of_levels
from hmsa_mmseg.models.tiled.row_resize import (
    bilinear_taps,
    needed_sizes,
    resize_rows,
    source_rows,
)
from hmsa_mmseg.models.utils import execution


def interpolated(x, size, align_corners=False):
    return F.interpolate(x, size, mode='bilinear', align_corners=align_corners)


def some_rows(x, rows, size, align_corners):
    """Resize the rows that some rows depend on."""
    height = x.shape[2]
    source = source_rows(rows, height, size[0], align_corners)
    part = x[:, :, source]
    return resize_rows(part, source, height, rows, size, align_corners)


sides = st.integers(1, 40)


@settings(max_examples=200, deadline=None)
@given(st.data(), sides, sides, sides, sides, st.booleans(), st.booleans())
def test_rows_of_a_resize(data, h, w, height, width, align_corners, double):
    dtype = torch.float64 if double else torch.float32
    start = data.draw(st.integers(0, height - 1))
    rows = slice(start, data.draw(st.integers(start + 1, height)))
    x = torch.randn(2, 3, h, w, dtype=dtype)
    expected = interpolated(x, (height, width), align_corners)[:, :, rows]
    found = some_rows(x, rows, (height, width), align_corners)
    limit = 1e-12 if double else 3e-5
    torch.testing.assert_close(found, expected, rtol=limit, atol=limit)


@pytest.mark.parametrize('align_corners', [False, True])
def test_weights_are_those_of_pytorch_at_large_sizes(align_corners):
    """In float32 the position of row 4000 is good to 2e-4 of a row only."""
    x = torch.randn(1, 1, 1367, 1)
    rows = slice(4000, 4100)
    found = some_rows(x, rows, (4101, 1), align_corners)
    expected = interpolated(x, (4101, 1), align_corners)[:, :, rows]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_taps_of_inference_can_be_trained_with():
    args = 341, 2048, False, torch.float32, torch.device('cpu')
    bilinear_taps.cache_clear()
    with torch.inference_mode():
        taps = bilinear_taps(*args)
    assert not any(tap.is_inference() for tap in taps)
    assert all(a is b for a, b in zip(taps, bilinear_taps(*args)))


def test_a_chain_leaves_out_sizes_that_change_nothing():
    sizes = (32, 64), (128, 256), (64, 128), (64, 128)
    assert needed_sizes(sizes, False) == [(32, 64), (64, 128)]
    assert needed_sizes(sizes, True) == list(sizes[:3])
    # 12 = 6 * 2: there, halving averages points in different pixels.
    sizes = [(2, 2), (12, 12), (6, 6)]
    assert needed_sizes(sizes, False) == sizes


# ------------------------------------------------------- blended logits


SCALES = [
    (1.0,),
    (0.5, 1.0),
    (0.5, 1.0, 2.0),
    (0.25, 0.5, 1.0, 2.0),
    (0.75, 1.5),
    (0.3, 0.7, 1.3, 2.2),
    (2.0,),
    (0.5,),
    (1.0, 4.0),
]
SIZES = [(64, 128), (67, 99), (33, 47), (7, 9), (1, 5)]


def outputs(input_size, scales, classes=3, dtype=torch.float64, stride=4):
    """Scales, and random logits and attention of each, highest first."""
    generator = torch.Generator().manual_seed(1)
    scales, logits, attns = sorted(scales, reverse=True), [], []
    for scale in scales:
        size = [math.ceil(s / stride) for s in scaled_size(input_size, scale)]
        for found, k, draw in (
            (logits, classes, torch.randn),
            (attns, 1, torch.rand),
        ):
            shape = (2, k, *size)
            found.append(draw(shape, generator=generator).to(dtype))
    return scales, logits, attns


@pytest.fixture
def small_tiles(monkeypatch):
    """A tile is some five rows of the tests' maps."""
    set_costs(monkeypatch, tile_bytes=5 * 6 * 100 * 4)
    monkeypatch.setattr(execution, 'MIN_ROWS', 3)


@pytest.mark.parametrize('scales', SCALES)
@pytest.mark.usefixtures('small_tiles')
@torch.no_grad()
def test_equals_fuse_scales(scales):
    for size, align_corners in product(SIZES, [False, True]):
        maps = outputs(size, scales)
        expected = fuse_scales(zip(*maps), size, align_corners)
        found = FusedLogits(*maps, size, align_corners)
        assert found.shape == expected.shape
        assert len(found.tiles()) > 1 or size[0] < 8
        torch.testing.assert_close(found.whole(), expected, rtol=0, atol=1e-12)
        one = found.image(1).whole()
        torch.testing.assert_close(one, expected[1:], rtol=0, atol=1e-12)
    for dtype in (torch.float32, torch.bfloat16):
        maps = outputs((67, 99), scales, dtype=dtype)
        fused = FusedLogits(*maps, (67, 99), False).whole()
        assert fused.dtype == torch.float32
        expected = fuse_scales(zip(*maps), (67, 99))
        torch.testing.assert_close(fused, expected, rtol=0, atol=2e-5)


def test_no_scale_is_an_error():
    with pytest.raises(ValueError, match='at least one scale'):
        FusedLogits([], [], [], (4, 4), False)


@pytest.mark.parametrize('num_classes', [2, 255, 256, 300])
def test_class_numbers(num_classes):
    logits = torch.randn(1, num_classes, 9, 17)
    # Equal largest values: the first counts, as for torch.argmax.
    logits[:, :, :4] = logits[:, :, :4].round()
    logits[:, -1, 8] = 9
    found = decide(WholeLogits(logits), torch.int16, None).classes
    assert torch.equal(found.long(), logits.argmax(1))
    assert (found[:, 8] == num_classes - 1).all()


@pytest.mark.parametrize(('pool', 'offset'), [(1, 0), (4, 2)])
@pytest.mark.parametrize('row_bytes', [1, 2000, 1 << 40])
def test_tiles_cover_all_rows_once(monkeypatch, pool, offset, row_bytes):
    monkeypatch.setattr(execution, 'MIN_ROWS', 8)
    for height in (1, 2, 7, 8, 10, 11, 12, 13, 101, 102):
        args = height, row_bytes, torch.device('cpu'), pool, offset
        found = execution.row_tiles(*args)
        assert found[0].start == 0
        assert found[-1].stop == height
        assert all(tile.start < tile.stop for tile in found)
        for one, other in zip(found, found[1:]):
            assert one.stop == other.start
            assert (other.start + offset) % pool == 0
        if row_bytes == 1 << 40:
            assert max(tile.stop - tile.start for tile in found) <= 8 + offset


# -------------------------------------------------------- levels convolved


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(
    'sizes',
    [
        ((64, 40), (32, 20), (16, 10), (8, 5)),
        ((67, 3), (34, 2), (1, 1)),
        ((3, 259), (2, 130), (1, 65)),
        # Levels of the first one's size, and larger ones.
        ((5, 5), (3, 3), (7, 7), (5, 5), (7, 3)),
        ((1, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize('widens', [True, False])
def test_convolution_of_levels(
    sizes, kernel_size, align_corners, widens, monkeypatch
):
    """In inference mode first, which leaves nothing that training reads."""
    set_costs(monkeypatch, widens=widens)
    levels = [
        torch.randn(2, 3 + i, *size, dtype=torch.float64, requires_grad=True)
        for i, size in enumerate(sizes)
    ]
    shape = 4, sum(x.shape[1] for x in levels), kernel_size, kernel_size
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    height = sizes[0][0]

    def convolve(start, stop):
        rows = slice(start, min(stop, height))
        return conv_of_levels(levels, weight, bias, align_corners, rows)

    with torch.inference_mode():
        convolve(0, height)
    cat = [interpolated(x, sizes[0], align_corners) for x in levels]
    cat = torch.cat(cat, dim=1)
    expected = F.conv2d(cat, weight, bias, padding=kernel_size // 2)
    found = convolve(0, height)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    step = 1 if height < 20 else 7
    tiles = [convolve(y, y + step) for y in range(0, height, step)]
    tiles = torch.cat(tiles, dim=2)
    torch.testing.assert_close(tiles, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    expected, *found = (
        torch.autograd.grad(x, (*levels, weight, bias), grad)
        for x in (expected, found, tiles)
    )
    for one in found:
        torch.testing.assert_close(one, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ('kernel_size', 'channels_last'), [(1, True), (3, False)]
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('widens', [True, False])
def test_as_near_to_float64_as_the_concatenation(
    kernel_size, channels_last, dtype, widens, monkeypatch
):
    """With HRNet-W48's channels and torch's own kernels, or autocast."""
    set_costs(monkeypatch, widens=widens)
    levels = [
        torch.randn(1, c, 32 >> i, 64 >> i, dtype=dtype)
        for i, c in enumerate((48, 96, 192, 384))
    ]
    if channels_last:
        levels = [x.to(memory_format=torch.channels_last) for x in levels]
    weight = torch.randn(24, 720, kernel_size, kernel_size)

    def plain(dtype):
        cat = [interpolated(x.to(dtype), (32, 64)) for x in levels]
        cat = torch.cat(cat, dim=1)
        return F.conv2d(cat, weight.to(dtype), padding=kernel_size // 2)

    exact = plain(torch.float64)
    is_half = dtype != torch.float32
    with torch.autocast('cpu', dtype) if is_half else nullcontext():
        found = conv_of_levels(levels, weight, None, False, slice(0, 32))
    assert found.dtype == dtype
    limit = 3 * (plain(dtype) - exact).abs().max()
    assert (found - exact).abs().max() < limit


@pytest.mark.parametrize('kernel_size', [1, 3])
def test_products_of_levels_are_convolutions(kernel_size):
    """Which TF32 is allowed in; in matrix products it is not, by default."""
    names = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    levels = [
        torch.randn(2, 3, 32 >> i, 64 >> i, device='meta', requires_grad=True)
        for i in range(4)
    ]
    weight = torch.randn(4, 12, kernel_size, kernel_size, device='meta')
    with Names():
        found = conv_of_levels(
            levels, weight.requires_grad_(), None, False, slice(0, 32)
        )
        found.sum().backward()
    assert {'convolution', 'convolution_backward'} < names
    assert not names & {'mm', 'bmm', 'addmm', 'baddbmm', 'addbmm'}
