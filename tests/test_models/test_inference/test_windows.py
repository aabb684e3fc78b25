"""One scale in windows."""

import pytest
import torch
import torch.nn.functional as F

from hmsa_mmseg.models.decode_heads.hierarchical_ms_attention_head import (
    ScaleMaps,
)
from hmsa_mmseg.models.inference.windows import decode_in_windows, lay_windows


@pytest.mark.parametrize('length', [64, 70, 129, 200, 257, 1000])
@pytest.mark.parametrize('window', [64, 96, 128, 160])
def test_windows_cover_a_side_and_overlap(length, window):
    windows = lay_windows(length, window)
    assert windows[0].start == 0
    assert windows[-1].stop == length
    for one, other in zip(windows, windows[1:]):
        assert other.start % 32 == 0
        assert one.stop - one.start == window
        assert one.start < other.start <= one.stop - window // 3
    assert windows[-1].stop - windows[-1].start > min(window, length) - 32


def local_network(image):
    """Maps at stride 4 of which each sees its own 4x4 pixels."""
    pad = (0, -image.shape[3] % 4, 0, -image.shape[2] % 4)
    pooled = F.avg_pool2d(F.pad(image, pad), 4)
    return ScaleMaps(pooled[:, :2], pooled[:, 2:].sigmoid())


@pytest.mark.parametrize('size', [(128, 128), (97, 161), (64, 301)])
@pytest.mark.parametrize('window', [(64, 64), (96, 64), (512, 96)])
def test_local_network_gives_the_same(size, window):
    image = torch.randn(2, 3, *size)
    expected = local_network(image)
    map_size = tuple(expected.seg_logits.shape[2:])
    found = decode_in_windows(local_network, image, window, map_size)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)


def test_mean_where_windows_overlap():
    image = torch.zeros(1, 3, 32, 96)
    values = iter([1.0, 3.0])

    def constant(window):
        size = (1, 1, 8, window.shape[3] // 4)
        value = next(values)
        return ScaleMaps(torch.full(size, value), None)

    found = decode_in_windows(constant, image, (32, 64), (8, 24))
    assert found.scale_attn is None
    row = found.seg_logits[0, 0, 0]
    assert torch.equal(row, torch.tensor([1.0] * 8 + [2.0] * 8 + [3.0] * 8))


def test_half_maps_are_summed_in_float32():
    image = torch.zeros(1, 3, 32, 96)

    def ones(window):
        size = (1, 1, 8, window.shape[3] // 4)
        return ScaleMaps(torch.ones(size, dtype=torch.bfloat16), None)

    found = decode_in_windows(ones, image, (32, 64), (8, 24))
    assert found.seg_logits.dtype == torch.float32


def test_one_window_is_the_whole():
    image = torch.randn(1, 3, 50, 70)
    calls = []

    def decode(window):
        calls.append(window)
        return local_network(window)

    found = decode_in_windows(decode, image, (64, 96), (13, 18))
    (window,) = calls
    assert torch.equal(window, image)
    assert torch.equal(found.seg_logits, local_network(image).seg_logits)


def test_maps_off_the_grid_are_refused():
    image = torch.randn(1, 3, 64, 192)

    def three(window):
        size = window.shape[2] // 3, window.shape[3] // 3
        return ScaleMaps(window.new_zeros(1, 1, *size), None)

    with pytest.raises(ValueError, match=r'divided by 1, 2, 4, .* 64 pos'):
        decode_in_windows(three, image, (64, 64), (21, 64))

    def padded(window):
        size = window.shape[2] // 4, window.shape[3] // 4 + 1
        return ScaleMaps(window.new_zeros(1, 1, *size), None)

    with pytest.raises(ValueError, match='a window of 64 x 64 pixels gave'):
        decode_in_windows(padded, image, (64, 64), (16, 48))
