import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hmsa_mmseg.models.fast import row_resize
from hmsa_mmseg.models.fast.row_resize import resize_rows, source_rows

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


@pytest.mark.parametrize('align_corners', [False, True])
def test_taps_kept_for_a_gpu_are_those_of_the_rows(align_corners):
    sizes = 341, 2048, align_corners, torch.float32
    row_resize._taps_of_all_rows.cache_clear()
    with torch.inference_mode():
        kept = row_resize._taps_of_all_rows(*sizes, torch.device('cpu'))
    found = row_resize._taps(slice(700, 777), *sizes, torch.device('cpu'))
    for all_rows, some in zip(kept, found):
        assert not all_rows.is_inference()
        assert torch.equal(all_rows[700:777], some)


def test_takes_few_source_rows():
    assert source_rows(slice(40, 48), 64, 256, False) == slice(8, 14)
    assert source_rows(slice(3, 5), 64, 64, False) == slice(3, 5)


def test_gradients():
    def function(x):
        return resize_rows(x, slice(1, 5), 6, slice(5, 9), (13, 7), False)

    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)
