"""Rows of combined logits against whole ones."""

import math
from itertools import product

import pytest
import torch

from hmsa_mmseg.models.scale_fusion import fuse_scales, scaled_size
from hmsa_mmseg.models.tiled.decisions import classes_of, decide
from hmsa_mmseg.models.tiled.logit_rows import (
    FusedLogits,
    WholeLogits,
)
from hmsa_mmseg.models.utils import execution

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


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """A tile is some five rows of the tests' maps."""
    monkeypatch.setitem(execution.TILE_BYTES, 'cpu', 5 * 6 * 100 * 4)
    monkeypatch.setattr(execution, 'MIN_ROWS', 3)


@pytest.mark.parametrize('scales', SCALES)
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


@pytest.mark.parametrize('scales', SCALES)
def test_rows_and_their_gradients(scales):
    size, rows = (33, 47), slice(9, 22)
    scales, logits, attns = outputs(size, scales)
    for x in (*logits, *attns):
        x.requires_grad_()
    weight = torch.randn(2, 3, 13, 47, dtype=torch.float64)
    whole = fuse_scales(zip(scales, logits, attns), size)
    # The attention of the highest scale is not read.
    maps = [*logits, *attns[1:]]
    expected = torch.autograd.grad((whole[:, :, rows] * weight).sum(), maps)

    fused = FusedLogits(scales, logits, attns, size, False)
    leaves, sources = {}, {}

    def take(i, source):
        assert i not in leaves
        sources[i] = source
        leaves[i] = fused.maps[i][:, :, source].detach().requires_grad_()
        return leaves[i]

    total = (fused.make(rows, take) * weight).sum()
    assert sorted(leaves) == list(range(len(maps)))
    found = torch.autograd.grad(total, [leaves[i] for i in range(len(maps))])
    for i, (one, part) in enumerate(zip(expected, found)):
        source = sources[i]
        torch.testing.assert_close(one[:, :, source], part, rtol=0, atol=1e-12)
        assert one.abs().sum() > 0
        outside = one.clone()
        outside[:, :, source] = 0
        assert outside.abs().sum() == 0


def test_no_scale_is_an_error():
    with pytest.raises(ValueError, match='at least one scale'):
        FusedLogits([], [], [], (4, 4), False)


@torch.no_grad()
def test_classes():
    maps = outputs((67, 99), (0.5, 1.0, 2.0), classes=7)
    logits = FusedLogits(*maps, (67, 99), False)
    whole = fuse_scales(zip(*maps), (67, 99))
    classes, confidence = decide(logits, torch.uint8, None, True)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes, whole.argmax(1).byte())
    expected = whole.softmax(1).amax(1).float()
    torch.testing.assert_close(confidence, expected)
    assert decide(logits, torch.uint8, None).confidence is None


@torch.no_grad()
def test_classes_of_one_channel():
    maps = outputs((33, 47), (0.5, 1.0), classes=1)
    logits = FusedLogits(*maps, (33, 47), False)
    classes, confidence = decide(logits, torch.uint8, 0.3, True)
    second = fuse_scales(zip(*maps), (33, 47)).sigmoid()[:, 0]
    assert torch.equal(classes, (second > 0.3).byte())
    assert 0 < classes.float().mean() < 1
    expected = second.where(classes == 1, 1 - second).float()
    torch.testing.assert_close(confidence, expected)


@pytest.mark.parametrize('num_classes', [2, 255, 256, 300])
def test_class_numbers(num_classes):
    logits = torch.randn(1, num_classes, 9, 17)
    # Equal largest values: the first counts, as for torch.argmax.
    logits[:, :, :4] = logits[:, :, :4].round()
    logits[:, -1, 8] = 9
    classes = classes_of(logits, None)
    assert torch.equal(classes.long(), logits.argmax(1))
    assert (classes[:, 8] == num_classes - 1).all()
    found = decide(WholeLogits(logits), torch.int16, None).classes
    assert torch.equal(found.long(), logits.argmax(1))


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
