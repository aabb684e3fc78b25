"""The convolution of levels against that of their concatenation."""

import pytest
import torch
import torch.nn.functional as F

from hmsa_mmseg.compat import flop_counter
from hmsa_mmseg.models.tiled.pyramid_conv import conv_of_levels

SIZES = [
    ((17, 25), (9, 13), (5, 7), (3, 4)),
    ((64, 40), (32, 20), (16, 10), (8, 5)),
    ((67, 3), (34, 2), (1, 1)),
    ((3, 259), (2, 130), (1, 65)),
    # Levels of the first one's size, and larger ones.
    ((5, 5), (3, 3), (7, 7), (5, 5), (7, 3)),
    ((1, 1), (1, 1)),
]
# HRNet-W48 at 1024x2048.
CHANNELS = (48, 96, 192, 384)


def make(sizes, kernel_size, dtype=torch.float64, out_channels=4, batch=2):
    """Levels, weight and bias that want gradients."""
    levels = [
        torch.randn(batch, 3 + i, *size, dtype=dtype, requires_grad=True)
        for i, size in enumerate(sizes)
    ]
    channels = sum(x.shape[1] for x in levels)
    k = kernel_size
    weight = torch.randn(out_channels, channels, k, k, dtype=dtype)
    bias = torch.randn(out_channels, dtype=dtype)
    return levels, weight.requires_grad_(), bias.requires_grad_()


def whole(levels, weight, bias=None, align_corners=False):
    rows = slice(0, levels[0].shape[2])
    return conv_of_levels(levels, weight, bias, align_corners, rows)


def plain(levels, weight, bias=None, align_corners=False):
    """Resize, concatenate, convolve."""
    levels = [
        F.interpolate(
            x,
            levels[0].shape[2:],
            mode='bilinear',
            align_corners=align_corners,
        )
        for x in levels
    ]
    padding = weight.shape[2] // 2
    return F.conv2d(torch.cat(levels, dim=1), weight, bias, padding=padding)


@pytest.mark.parametrize(
    ('sizes', 'kernel_size', 'align_corners'),
    zip(SIZES * 2, [1, 3, 5] * 2 + [3, 5, 1] * 2, [False] * 6 + [True] * 6),
)
def test_equals_the_convolution_of_the_concatenation(
    sizes, kernel_size, align_corners
):
    levels, weight, bias = make(sizes, kernel_size)
    expected = plain(levels, weight, bias, align_corners)
    found = whole(levels, weight, bias, align_corners)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    inputs = (*levels, weight, bias)
    for one, other in zip(
        torch.autograd.grad(found, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    height = sizes[0][0]
    step = 1 if height < 20 else 7
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        with torch.no_grad():
            tile = conv_of_levels(levels, weight, bias, align_corners, rows)
        torch.testing.assert_close(
            tile, expected[:, :, rows], rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize(
    ('kernel_size', 'channels_last'), [(1, True), (3, False)]
)
def test_as_near_to_float64_as_the_concatenation(kernel_size, channels_last):
    """In float32, at a size where torch's own kernels are used."""
    levels = [
        torch.randn(1, c, 32 >> i, 64 >> i) for i, c in enumerate(CHANNELS)
    ]
    if channels_last:
        levels = [x.to(memory_format=torch.channels_last) for x in levels]
    weight = torch.randn(24, 720, kernel_size, kernel_size)
    exact = plain([x.double() for x in levels], weight.double())
    found = whole(levels, weight)
    assert found.dtype == torch.float32
    limit = 3 * (plain(levels, weight) - exact).abs().max()
    assert (found - exact).abs().max() < limit


@pytest.mark.needs_torch('resize_of_bfloat16')
@pytest.mark.parametrize('kernel_size', [1, 3])
def test_autocast(kernel_size):
    levels, weight, bias = make(SIZES[0], kernel_size, torch.float32)
    exact = plain(levels, weight, bias)
    with torch.autocast('cpu', torch.bfloat16):
        found = whole(levels, weight, bias)
        assert found.dtype == torch.bfloat16
    scale = exact.abs().max()
    assert (found - exact).abs().max() < 0.02 * scale
    grad = torch.randn_like(exact)
    inputs = (*levels, weight, bias)
    expected = torch.autograd.grad(exact, inputs, grad)
    for one, other in zip(
        torch.autograd.grad(found, inputs, grad.bfloat16()), expected
    ):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.02 * other.abs().max()


def test_first_and_second_derivatives():
    levels, weight, bias = make(((6, 4), (3, 3), (2, 1)), 3)
    with torch.inference_mode():  # leaves nothing that these cannot use
        whole(levels, weight, bias)

    def function(weight, bias, *levels):
        return conv_of_levels(levels, weight, bias, False, slice(1, 5))

    args = (weight, bias, *levels)
    assert torch.autograd.gradcheck(function, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, args, fast_mode=True)


@pytest.mark.needs_torch('flop_counter')
@pytest.mark.parametrize('kernel_size', [1, 3])
@torch.no_grad()
def test_cost_at_true_size(kernel_size):
    """Of HRNet-W48's levels at 1024x2048, on a device that only counts."""
    levels = [
        torch.empty(1, c, 256 >> i, 512 >> i, device='meta')
        for i, c in enumerate(CHANNELS)
    ]
    weight = torch.empty(512, 720, kernel_size, kernel_size, device='meta')
    with flop_counter(display=False) as flops:
        whole(levels, weight)
    dense = 2 * 256 * 512 * weight.numel()
    assert flops.get_total_flops() < 0.23 * dense
