import math

import pytest
import torch

from hmsa_mmseg.models.fast import tiles
from hmsa_mmseg.models.fast.decisions import classes_of
from hmsa_mmseg.models.fast.row_fusion import RowFusion
from hmsa_mmseg.models.fast.row_prediction import (
    classes_in_rows,
    fuse_in_rows,
)
from hmsa_mmseg.models.fast.tiles import row_tiles
from hmsa_mmseg.models.scale_fusion import fuse_scales, scaled_size

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


@pytest.fixture
def small_tiles(monkeypatch):
    """A tile is some five rows of the tests' maps."""
    monkeypatch.setitem(tiles.TILE_BYTES, 'cpu', 5 * 6 * 100 * 8)


@pytest.mark.parametrize('scales', SCALES)
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('align_corners', [False, True])
@torch.no_grad()
def test_equals_fuse_scales(small_tiles, scales, size, align_corners):
    found = outputs(size, scales)
    torch.testing.assert_close(
        fuse_in_rows(found, size, align_corners),
        fuse_scales(found, size, align_corners),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize('scales', SCALES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_float32_and_half_precision(small_tiles, scales, dtype):
    found = outputs((67, 99), scales, dtype=dtype)
    fused = fuse_in_rows(found, (67, 99))
    assert fused.dtype == torch.float32
    torch.testing.assert_close(
        fused, fuse_scales(found, (67, 99)), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize('scales', SCALES)
@torch.no_grad()
def test_classes(small_tiles, scales):
    found = outputs((67, 99), scales, classes=7)
    classes = classes_in_rows(found, (67, 99))
    assert classes.dtype == torch.uint8
    assert torch.equal(classes, fuse_scales(found, (67, 99)).argmax(1).byte())


@torch.no_grad()
def test_classes_of_one_channel():
    found = outputs((33, 47), (0.5, 1.0), classes=1)
    classes = classes_in_rows(found, (33, 47), threshold=0.3)
    expected = fuse_scales(found, (33, 47)).sigmoid() > 0.3
    assert torch.equal(classes, expected[:, 0].byte())
    assert 0 < expected.float().mean() < 1


@pytest.mark.parametrize('num_classes', [2, 255, 256, 300])
def test_class_numbers(num_classes):
    logits = torch.randn(1, num_classes, 9, 17)
    # Equal largest values: the first counts, as for torch.argmax.
    logits[:, :, :4] = logits[:, :, :4].round()
    logits[:, -1, 8] = 9
    classes = classes_of(logits, None)
    assert torch.equal(classes.long(), logits.argmax(1))
    assert (classes[:, 8] == num_classes - 1).all()
    found = classes_in_rows([(1.0, logits, None)], (9, 17))
    assert found.dtype == (torch.uint8 if num_classes <= 256 else torch.int64)
    assert torch.equal(found.long(), logits.argmax(1))


@pytest.mark.parametrize('scales', SCALES)
def test_rows_and_their_gradients(scales):
    size = (33, 47)
    found = outputs(size, scales)
    maps = [
        (scale, logits.requires_grad_(), attn.requires_grad_())
        for scale, logits, attn in found
    ]
    rows = slice(9, 22)
    weight = torch.randn(2, 3, 13, 47, dtype=torch.float64)
    (fuse_scales(maps, size)[:, :, rows] * weight).sum().backward()
    expected = [x.grad for _, *pair in maps for x in pair]

    fusion = RowFusion(
        scales[::-1], [x.shape[2:] for _, x, _ in maps], size, False
    )
    sources = fusion.source_rows(rows)
    leaves = [
        [x.detach()[:, :, source].requires_grad_() for x in pair]
        for (_, *pair), source in zip(maps, sources)
    ]
    logits, attns = zip(*leaves)
    (fusion.rows(logits, attns, rows) * weight).sum().backward()
    for whole, part, source in zip(
        expected,
        [x.grad for pair in leaves for x in pair],
        [source for source in sources for _ in range(2)],
    ):
        if whole is None or part is None:
            assert whole is part  # the attention of the highest scale
            continue
        torch.testing.assert_close(
            whole[:, :, source], part, rtol=0, atol=1e-12
        )
        assert whole.abs().sum() > 0
        outside = whole.clone()
        outside[:, :, source] = 0
        assert outside.abs().sum() == 0


def test_halving_after_enlarging_by_four_is_one_resize():
    fusion = RowFusion((2.0, 1.0), [(32, 64), (16, 32)], (64, 128), False)
    assert fusion.paths[0] == ((32, 64), (64, 128))
    fusion = RowFusion((2.0, 1.0), [(32, 64), (16, 32)], (64, 128), True)
    assert fusion.paths[0] == ((32, 64), (128, 256), (64, 128))
    # 12 = 6 * 2: there, halving averages points in different pixels.
    fusion = RowFusion((2.0, 1.0), [(2, 2), (2, 2)], (6, 6), False)
    assert fusion.paths[0] == ((2, 2), (12, 12), (6, 6))


@torch.no_grad()
def test_maps_of_different_sizes_fuse_plainly():
    (scale, logits, attn), *rest = outputs((64, 64), (0.5, 1.0))[::-1]
    attn = attn[:, :, ::2, ::2]
    found = [*rest, (scale, logits, attn)]
    expected = fuse_scales(found, (64, 64))
    assert torch.equal(fuse_in_rows(found, (64, 64)), expected)
    classes = classes_in_rows(found, (64, 64))
    assert torch.equal(classes, expected.argmax(1).byte())


def test_gradients_reach_the_maps():
    """With gradients, the plain fusion runs."""
    found = outputs((32, 32), (0.5, 1.0))
    found[0][1].requires_grad_()
    fuse_in_rows(found, (32, 32)).sum().backward()
    assert found[0][1].grad.abs().sum() > 0


def test_tiles_cover_all_rows_once():
    tiles = row_tiles(100, 1 << 17, torch.device('cpu'))
    assert [row for tile in tiles for row in range(100)[tile]] == [*range(100)]
    assert len(tiles) > 1
    # Not even one row fits: still one at a time.
    assert row_tiles(2, 1 << 40, torch.device('cpu')) == [
        slice(0, 1),
        slice(1, 2),
    ]


def test_no_scale_is_an_error():
    with torch.no_grad():
        for function in (fuse_in_rows, classes_in_rows):
            with pytest.raises(ValueError, match='at least one scale'):
                function([], (4, 4))
    with pytest.raises(ValueError, match='at least one scale'):
        RowFusion([], [], (4, 4), False)


@pytest.mark.parametrize('with_classes', [False, True])
def test_a_trace_is_of_any_size(with_classes):
    """Tiles would be those of the size that was traced."""

    def run(lo, attn, hi):
        outputs = [(1.0, hi, None), (0.5, lo, attn)]
        function = classes_in_rows if with_classes else fuse_in_rows
        return function(outputs, [4 * side for side in hi.shape[2:]])

    def maps(h, w):
        return (
            torch.randn(1, 5, h // 2, w // 2),
            torch.rand(1, 1, h // 2, w // 2),
            torch.randn(1, 5, h, w),
        )

    with torch.no_grad():
        traced = torch.jit.trace(run, maps(16, 24), check_trace=False)
        for size in ((16, 24), (40, 12)):
            one = maps(*size)
            torch.testing.assert_close(traced(*one), run(*one))
