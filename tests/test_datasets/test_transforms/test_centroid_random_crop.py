"""`CentroidRandomCrop`, beside the authors' crop."""

import random

import numpy as np
import pytest
from mmcv.transforms import RandomFlip, Resize
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageOps


def build(**kwargs):
    return TRANSFORMS.build(dict(type='CentroidRandomCrop', **kwargs))


def make(height, width, centroid=None, channels=(3,)):
    """Pixels that tell where they were: row in channel 0, column in 1."""
    img = np.zeros((height, width, *channels), np.uint8)
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1]
    if channels:
        img[..., 0], img[..., 1], img[..., 2] = rows, columns, 200
    else:
        img[:] = rows
    results = dict(
        img=img,
        gt_seg_map=(rows % 100).astype(np.uint8),
        other=columns.astype(np.int32),
        seg_fields=['gt_seg_map', 'other'],
        img_shape=(height, width),
        ori_shape=(height, width),
    )
    if centroid is not None:
        results['class_centroid'] = centroid
    return results


def authors_crop(img, mask, crop_size, centroid):
    """RandomCrop of transforms/joint_transforms.py, in other words.

    Their centroid stays where it is when the image is padded; here it moves.
    """
    (height, width), (w, h) = crop_size, img.size
    pad_h = (height - h) // 2 + 1 if h < height else 0
    pad_w = (width - w) // 2 + 1 if w < width else 0
    border = (pad_w, pad_h, pad_w, pad_h)
    img = ImageOps.expand(img, border, (0, 0, 0))
    mask = ImageOps.expand(mask, border, 255)
    w, h = img.size
    if centroid is None:
        top = random.randint(0, h - height)
        left = random.randint(0, w - width)
    else:
        x, y = centroid[0] + pad_w, centroid[1] + pad_h
        top = random.randint(y - height, y)
        left = random.randint(x - width, x)
        top = min(h - height, max(0, top))
        left = min(w - width, max(0, left))
    box = (left, top, left + width, top + height)
    return np.array(img.crop(box)), np.array(mask.crop(box))


@pytest.mark.parametrize(
    'size', [(24, 40), (8, 40), (24, 12), (16, 20), (1, 1)]
)
@pytest.mark.parametrize('relative', [None, (0.5, 0.3), (1, 1)])
def test_same_as_the_authors(size, relative):
    crop = build(crop_size=(16, 20))
    for seed in range(20):
        centroid = relative and tuple(
            int(r * (n - 1)) for r, n in zip(relative, size[::-1])
        )
        results = make(*size, centroid)
        random.seed(seed)
        img, mask = authors_crop(
            Image.fromarray(results['img']),
            Image.fromarray(results['gt_seg_map']),
            (16, 20),
            centroid,
        )
        random.seed(seed)
        results = crop(results)
        assert results['img_shape'] == (16, 20)
        assert np.array_equal(results['img'], img)
        assert np.array_equal(results['gt_seg_map'], mask)
        assert results['gt_seg_map'].dtype == np.uint8


@pytest.mark.parametrize(
    ('flip_first', 'direction', 'scales'),
    [
        (False, 'horizontal', [2.0]),
        (True, 'vertical', [0.5]),
        (True, 'diagonal', [0.5, 3.0]),
        (False, 'diagonal', []),
    ],
)
def test_the_centroid_follows_the_image(flip_first, direction, scales):
    results = make(40, 60, centroid=(49, 9))
    results['gt_seg_map'][:] = 0
    results['gt_seg_map'][8:12, 48:52] = 1
    results['seg_fields'] = ['gt_seg_map']  # mmcv resizes no other.
    flip = RandomFlip(prob=1.0, direction=direction)
    steps = [Resize(scale_factor=scale) for scale in scales]
    for step in [flip, *steps] if flip_first else [*steps, flip]:
        results = step(results)
    label = results['gt_seg_map']
    assert 0 < label.mean() < 0.01
    random.seed(0)
    # As small as the class: it is next to the centroid, and seldom elsewhere.
    crop = build(crop_size=int(label.any(1).sum()))
    found = [crop(dict(results))['gt_seg_map'].any() for _ in range(50)]
    assert sum(found) >= 30


def test_scale_factor_serves_where_the_first_size_is_unknown():
    results = make(40, 60, (30, 20))
    del results['ori_shape']
    results['scale_factor'] = (0.5, 0.5)
    for seed in range(20):
        random.seed(seed)
        img = build(crop_size=6)(dict(results))['img']
        assert 10 <= img[0, 0, 1] <= 16
        assert 5 <= img[0, 0, 0] <= 11


def test_padding():
    crop = build(crop_size=(6, 8), img_pad_val=(7, 8, 9), seg_pad_val=254)
    results = crop(make(2, 8))
    padded = results['gt_seg_map'] == 254
    assert padded.sum() == 4 * 8
    assert {*map(tuple, results['img'][padded].tolist())} == {(7, 8, 9)}
    assert (results['other'][padded] == 254).all()
    assert results['other'].dtype == np.int32

    crop = build(crop_size=(10, 10), pad='none')
    for size in ((20, 5), (5, 20), (20, 20)):
        results = crop(make(*size, (2, 2)))
        expected = tuple(min(n, 10) for n in size)
        assert results['img'].shape[:2] == results['img_shape'] == expected
        assert (results['img'][..., 2] == 200).all()

    grey = dict(make(5, 30, channels=()), seg_fields=[])
    grey = build(crop_size=10)(grey)
    assert grey['img'].shape == (10, 10)
    assert grey['gt_seg_map'].shape == (5, 30)


def test_options():
    for kwargs, match in (
        (dict(crop_size=(0, 4)), r'crop_size=\(0, 4\)'),
        (dict(crop_size=(4,)), r'crop_size=\(4,\)'),
        (dict(crop_size=4, pad='left'), "pad='left'"),
    ):
        with pytest.raises(ValueError, match=match):
            build(**kwargs)


@pytest.mark.fault(
    'an image of another size than its label at CentroidRandomCrop',
    'an error with both sizes and the path',
)
def test_label_that_was_not_resized():
    results = dict(
        img=np.zeros((8, 8, 3), np.uint8),
        img_path='a.png',
        gt_seg_map=np.zeros((4, 4), np.uint8),
        seg_fields=['gt_seg_map'],
    )
    match = r'a\.png: the image is 8x8 .* its gt_seg_map 4x4'
    with pytest.raises(ValueError, match=match):
        build(crop_size=4)(results)
