"""`MaskOutRegion`: which pixels stay."""

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS


def build(**kwargs):
    return TRANSFORMS.build(dict(type='MaskOutRegion', **kwargs))


def mask(size, info=None, **kwargs):
    label = np.zeros(size, np.uint8)
    results = dict(gt_seg_map=label, seg_map_path='a.png', **(info or {}))
    found = build(**kwargs)(results)['gt_seg_map']
    assert found.dtype == np.uint8
    assert not label.any()
    return found == 0


@pytest.mark.parametrize('height', [1, 7, 683, 1024])
def test_edges_by_the_centres_of_pixels(height):
    width = 2 * height
    kept = mask((height, width))
    rows = (np.arange(height) + 0.5) * 1024 / height
    columns = (np.arange(width) + 0.5) * 2048 / width
    expected = np.outer(
        (rows >= 15) & (rows < 840), (columns >= 14) & (columns < 2030)
    )
    assert np.array_equal(kept, expected)


def test_only_samples_with():
    box = dict(box=(0, 1, 0, 2), ref_size=(2, 2), only_with='prob_map_path')
    assert mask((2, 2), dict(prob_map_path=None), **box).all()
    kept = mask((2, 2), dict(prob_map_path='p.png'), **box)
    assert kept.tolist() == [[True, True], [False, False]]
    assert build()({}) == {}
    assert 'only_with=None' in repr(build())


def test_what_is_refused():
    for box in ((840, 15, 14, 2030), (0, 1025, 0, 5), (0, 5, 3, 3)):
        with pytest.raises(ValueError, match='box='):
            build(box=box)
    with pytest.raises(ValueError, match=r'a.png.*1024x2049.*1024'):
        mask((1024, 2049))
    # The box is of the image as it is on the disk.
    with pytest.raises(ValueError, match=r'a.png is flipped already'):
        mask((1024, 2048), dict(flip=True))
