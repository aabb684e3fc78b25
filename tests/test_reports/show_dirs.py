"""Show-dirs for the report: random results, drawn and counted."""

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from hmsa_mmseg.visualization import (
    draw_pictures,
    make_record,
    write_pictures,
    write_record,
    write_run,
)

# Whatever a page could take for its own language.
CLASSES = ('road & "path"', "<b>it's a sign</b>", '</script>', 'sky')
PALETTE = [[128, 64, 128], [220, 220, 0], [0, 0, 142], [70, 130, 180]]
SCALES = (0.5, 1.0, 2.0)
IMAGES = ('b/<i>&"1.png', 'b/2.png', 'a/10.png', 'a/9.png')
SIZE = (40, 64)
IGNORED = 255


def make_sample(seed, wrong=0.3, scales=SCALES, labelled=True, size=SIZE):
    """Return a result with all maps, wrong in a part of its pixels.

    The last class does not occur.
    """
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 3, (size[0] // 8, size[1] // 8))
    truth = blocks.repeat(8, 0).repeat(8, 1)

    def predict(share):
        hit = rng.random(size) < share
        return np.where(hit, rng.integers(0, 3, size), truth)

    sample = SegDataSample()
    weights = rng.random((len(scales), *size)) ** 2
    maps = dict(pred_sem_seg=predict(wrong)[None])
    if scales:
        maps.update(
            scale_weights=weights / weights.sum(0),
            scale_attn=rng.random((len(scales) - 1, *size)),
            scale_sem_seg=np.stack([predict(0.4) for _ in scales]),
            confidence=rng.uniform(0.4, 1, (1, *size)),
        )
        sample.set_metainfo(dict(scales=scales))
    if labelled:
        truth[:2] = IGNORED
        maps['gt_sem_seg'] = truth[None]
    sample.set_data(
        {
            key: PixelData(data=torch.as_tensor(value))
            for key, value in maps.items()
        }
    )
    return sample


def write_show_dir(root, samples, info=None, classes=CLASSES):
    """Write records and pictures of results by the path of their image."""
    rng = np.random.default_rng(0)
    for image, sample in samples.items():
        shape = (*sample.pred_sem_seg.data.shape[-2:], 3)
        pixels = rng.integers(0, 255, shape).astype(np.uint8)
        pictures = draw_pictures(pixels, sample, classes, PALETTE)
        paths = write_pictures(root, image, pictures)
        write_record(root, make_record(image, sample, classes, PALETTE, paths))
    if info is not None:
        write_run(root, info)


def arrays(samples, field):
    """One map of all results, as a list of arrays."""
    return [getattr(sample, field).data.numpy() for sample in samples.values()]


def literal_iou(predictions, truths):
    """IoU in percent of each class, by its definition; None without any."""
    ious = []
    for k in range(len(CLASSES)):
        hits = union = 0
        for predicted, true in zip(predictions, truths):
            valid = true != IGNORED
            hits += np.sum((predicted == k) & (true == k) & valid)
            union += np.sum(((predicted == k) | (true == k)) & valid)
        ious.append(100 * hits / union if union else None)
    return ious


def make_samples(**kwargs):
    """Return a result for each of :data:`IMAGES`, each worse than the last."""
    return {
        image: make_sample(seed, wrong=0.2 + 0.15 * seed, **kwargs)
        for seed, image in enumerate(IMAGES)
    }
