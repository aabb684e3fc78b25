"""The convolution of levels against that of their concatenation."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from hmsa_mmseg.models.fast import pyramid_conv
from hmsa_mmseg.models.fast.pyramid_conv import PyramidConv
from hmsa_mmseg.models.fast.resize_bands import resize_bands
from hmsa_mmseg.utils.live_bytes import peak_live_bytes

SIZES = [
    ((17, 25), (9, 13), (5, 7), (3, 4)),
    ((64, 40), (32, 20), (16, 10), (8, 5)),
    # More than one chunk of rows, then of columns.
    ((67, 3), (34, 2), (1, 1)),
    ((3, 259), (2, 130), (1, 65)),
    # Levels of the first one's size, and larger ones.
    ((5, 5), (3, 3), (7, 7), (5, 5), (7, 3)),
    ((1, 1), (1, 1)),
]
# HRNet-W48 at 1024x2048.
CHANNELS = (48, 96, 192, 384)


@pytest.fixture(params=[False, True], ids=['all coarse', 'as it pays'])
def _choice(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(pyramid_conv, '_RESIZE_COST', 0)


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


def plain(levels, weight, bias, align_corners=False):
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


@pytest.mark.usefixtures('_choice')
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('kernel_size', [1, 3, 5])
@pytest.mark.parametrize('sizes', SIZES)
def test_equals_the_convolution_of_the_concatenation(
    sizes, kernel_size, align_corners
):
    levels, weight, bias = make(sizes, kernel_size)
    expected = plain(levels, weight, bias, align_corners)
    found = PyramidConv(levels, weight, bias, align_corners).whole()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    inputs = (*levels, weight, bias)
    for one, other in zip(
        torch.autograd.grad(found, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures('_choice')
@pytest.mark.parametrize('sizes', SIZES)
@torch.no_grad()
def test_a_1x1_kernel_a_few_rows_at_a_time(sizes):
    levels, weight, bias = make(sizes, 1)
    expected = plain(levels, weight, bias)
    end = 0
    for rows, tile in PyramidConv(levels, weight, bias).rows():
        assert rows.start == end
        end = rows.stop
        torch.testing.assert_close(
            tile, expected[:, :, rows], rtol=1e-10, atol=1e-10
        )
    assert end == expected.shape[2]


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('channels_last', [False, True])
def test_as_near_to_float64_as_the_concatenation(kernel_size, channels_last):
    """In float32, at a size where torch's own kernels are used."""
    levels = [
        torch.randn(1, c, 32 >> i, 64 >> i) for i, c in enumerate(CHANNELS)
    ]
    if channels_last:
        levels = [x.to(memory_format=torch.channels_last) for x in levels]
    weight = torch.randn(24, 720, kernel_size, kernel_size)
    exact = plain([x.double() for x in levels], weight.double(), None)
    found = PyramidConv(levels, weight).whole()
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    limit = 3 * (plain(levels, weight, None) - exact).abs().max()
    assert (found - exact).abs().max() < limit


@pytest.mark.parametrize('kernel_size', [1, 3])
def test_autocast(monkeypatch, kernel_size):
    monkeypatch.setattr(pyramid_conv, '_RESIZE_COST', 0)
    levels, weight, bias = make(SIZES[0], kernel_size, torch.float32)
    exact = plain(levels, weight, bias)
    with torch.autocast('cpu', torch.bfloat16):
        found = PyramidConv(levels, weight, bias).whole()
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


def test_only_wanted_gradients_and_only_once(monkeypatch):
    monkeypatch.setattr(pyramid_conv, '_RESIZE_COST', 0)
    levels, weight, bias = make(SIZES[0], 3)
    found = PyramidConv([x.detach() for x in levels], weight, bias).whole()
    expected = plain(levels, weight, bias)
    # Of a backbone that is frozen, then of convolutions that are.
    (one,) = torch.autograd.grad(found.square().sum(), weight)
    (other,) = torch.autograd.grad(
        expected.square().sum(), weight, retain_graph=True
    )
    torch.testing.assert_close(one, other)
    found = PyramidConv(levels, weight.detach(), bias).whole()
    (of_level,) = torch.autograd.grad(
        found.square().sum(), levels[2], retain_graph=True
    )
    (other,) = torch.autograd.grad(expected.square().sum(), levels[2])
    torch.testing.assert_close(of_level, other)
    # Also of a linear function, of which autograd would not notice it.
    for loss in (found.square().sum(), found.sum()):
        with pytest.raises(RuntimeError, match='without create_graph=True'):
            torch.autograd.grad(loss, levels[2], create_graph=True)


def test_a_kernel_that_does_not_fit_is_refused():
    levels, weight, _ = make(SIZES[0], 3)
    with pytest.raises(ValueError, match=r'got \(4, 17, 3, 3\)'):
        PyramidConv(levels, weight[:, :-1])
    with pytest.raises(ValueError, match='odd k'):
        PyramidConv(levels, weight[..., :2, :2])


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('lengths', [(7, 13), (5, 40), (1, 9), (12, 12)])
def test_bands_are_the_resize_of_the_identity(lengths, align_corners):
    length, out_length = lengths
    identity = torch.eye(length, dtype=torch.float64)[None]
    matrix = F.interpolate(
        identity, out_length, mode='linear', align_corners=align_corners
    )[0].t()
    tile, kernel_size = 8, 3
    bands = resize_bands(
        length,
        out_length,
        kernel_size,
        tile,
        align_corners,
        torch.float64,
        torch.device('cpu'),
    )
    for tap in range(kernel_size):
        found = torch.zeros(len(bands.starts) * tile, length).double()
        for i, start in enumerate(bands.starts):
            rows = slice(i * tile, (i + 1) * tile)
            cols = slice(start, start + bands.width)
            found[rows, cols] = bands.matrices[i, :, :, tap]
        # Row i + tap - 1 of the resize, and zeros where there is none.
        shifted = F.pad(matrix, (0, 0, 1, 1))[tap : tap + out_length]
        torch.testing.assert_close(found[:out_length], shifted)


def test_narrow_levels_are_enlarged_first():
    """HRNet-W18's second level is, before a 3x3 kernel; W48's is not."""
    for channels, num_coarse in (((18, 36, 72, 144), 2), (CHANNELS, 3)):
        levels = [
            torch.empty(1, c, 64 >> i, 128 >> i, device='meta')
            for i, c in enumerate(channels)
        ]
        weight = torch.empty(512, sum(channels), 3, 3, device='meta')
        assert len(PyramidConv(levels, weight).coarse) == num_coarse


@pytest.mark.parametrize(
    ('kernel_size', 'out_channels', 'share'), [(3, 512, 0.16), (1, 720, 0.18)]
)
@torch.no_grad()
def test_cost_at_true_size(kernel_size, out_channels, share):
    """Of HRNet-W48's levels at 1024x2048, on a device that only counts."""
    levels = [
        torch.empty(1, c, 256 >> i, 512 >> i, device='meta')
        for i, c in enumerate(CHANNELS)
    ]
    weight = torch.empty(
        out_channels, 720, kernel_size, kernel_size, device='meta'
    )

    def run():
        return PyramidConv(levels, weight).whole()

    with FlopCounterMode(display=False) as flops:
        run()
    dense = 2 * 256 * 512 * weight.numel()
    assert flops.get_total_flops() < share * dense
    # The result, and no more than 300 MB beside it.
    result = 256 * 512 * out_channels * 4
    assert peak_live_bytes(run) < result + 300e6


def test_inference_mode_leaves_nothing_that_training_cannot_use(monkeypatch):
    monkeypatch.setattr(pyramid_conv, '_RESIZE_COST', 0)
    resize_bands.cache_clear()
    levels, weight, bias = make(SIZES[0], 3)
    with torch.inference_mode():
        expected = PyramidConv(levels, weight, bias).whole()
    assert resize_bands.cache_info().misses > 0
    found = PyramidConv(levels, weight, bias).whole()
    assert resize_bands.cache_info().hits > 0
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert weight.grad is not None
