"""Resizes by matrices, and the walk over tiles, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from hmsa_mmseg.models.fast.row_losses_resize import resize_rows_by_matrices
from hmsa_mmseg.models.fast.row_losses_walk import RowLogits, walk_rows
from hmsa_mmseg.models.fast.row_resize import source_rows

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
@pytest.mark.parametrize(
    ('dtype', 'atol'), [(torch.float64, 1e-12), (torch.float32, 2e-5)]
)
def test_equals_torch(size, out_size, align_corners, dtype, atol):
    x = torch.randn(1, 3, *size, dtype=dtype, requires_grad=True)
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
        part = x[:, :, source].detach().requires_grad_()
        found = resize_rows_by_matrices(
            part, source, size, rows, out_size, align_corners
        )
        torch.testing.assert_close(found, whole[:, :, rows], rtol=0, atol=atol)
        (grad,) = torch.autograd.grad(found, part, weight[:, :, rows])
        total[:, :, source] += grad
    torch.testing.assert_close(total, expected, rtol=0, atol=10 * atol)


def test_an_image_without_classes_is_not_shown():
    source = RowLogits(
        (1.0,), (torch.randn(2, 4, 5, 6),), (None,), (20, 24), False
    )
    whole, shown = source.full(), []

    def visit(image, band, logits):
        shown.append(image)
        torch.testing.assert_close(logits, whole[1, [0, 3]][:, band.rows])

    chosen = [torch.tensor([], dtype=torch.long), torch.tensor([0, 3])]
    walk_rows(source, visit, channels=chosen)
    assert set(shown) == {1}
