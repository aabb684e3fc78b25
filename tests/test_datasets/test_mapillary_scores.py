"""Mapillary's two ways to score, through mmseg's metric, against numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS, METRICS, MODELS
from PIL import Image

HMSA = Path(__file__).parents[2] / 'configs' / 'hmsa'
RECIPE = HMSA / 'hmsa_hr48_ocr_8xb2-rmi-amp-200e_mapillary-1024x1024.py'
NUM_CLASSES = 65
LONG_EDGE = 48
# Odd, upright, larger and smaller than the network's input.
SIZES = [(61, 87), (90, 50), (25, 37)]


@pytest.fixture
def root(tmp_path):
    """Images of smooth colours; labels of blocks, some of them unlabelled."""
    rng = np.random.default_rng(0)
    folders = [tmp_path / 'validation' / n for n in ('images', 'v1.2/labels')]
    for folder in folders:
        folder.mkdir(parents=True)
    for i, (height, width) in enumerate(SIZES):
        image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        label = Image.fromarray(rng.integers(0, 66, (7, 7), np.uint8))
        size = (width, height)
        image.resize(size, Image.BICUBIC).save(
            folders[0] / f'{i}.jpg', quality=95
        )
        label.resize(size, Image.NEAREST).save(folders[1] / f'{i}.png')
    return tmp_path


@pytest.fixture
def cfg(root, tiny_model_cfg):
    """The recipe, on these images, with a small network."""
    cfg = Config.fromfile(RECIPE)
    dataset = cfg.test_dataloader.dataset
    dataset.data_root = str(root)
    for pipeline in (dataset.pipeline, cfg.tta_pipeline):
        (step,) = (s for s in pipeline if s.type == 'EvalAtInputSize')
        step.resize.scale = (LONG_EDGE, LONG_EDGE)
    cfg.model = tiny_model_cfg(
        decode_head=dict(num_classes=NUM_CLASSES),
        test_cfg=cfg.model.test_cfg,
    )
    return cfg


def literal_logits(model, path, with_flip):
    """Pillow, numpy and the model's logits of the resized image."""
    image = Image.open(path)
    ratio = LONG_EDGE / max(image.size)
    size = tuple(int(side * ratio + 0.5) for side in image.size)
    pixels = np.asarray(image.resize(size, Image.BILINEAR), np.float32)
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    inputs = torch.from_numpy((pixels - np.float32(mean)) / np.float32(std))
    inputs = inputs.permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = model.encode_decode(inputs)
        if with_flip:
            logits = logits + model.encode_decode(inputs.flip(-1)).flip(-1)
    return logits


def literal_score(model, root, scored_at, with_flip):
    """Intersection over union of each class, and the pixels in doubt."""
    inter, union = np.zeros((2, NUM_CLASSES))
    doubtful = 0
    for i in range(len(SIZES)):
        folder = root / 'validation'
        logits = literal_logits(model, folder / f'images/{i}.jpg', with_flip)
        label = Image.open(folder / f'v1.2/labels/{i}.png')
        if scored_at == 'input':
            label = label.resize(logits.shape[:1:-1], Image.NEAREST)
        else:
            logits = F.interpolate(
                logits, label.size[::-1], mode='bilinear', align_corners=False
            )
        best = logits[0].topk(2, dim=0).values
        doubtful += int((best[0] - best[1] < 1e-3).sum())
        label, found = np.array(label), logits[0].argmax(0).numpy()
        for k in range(NUM_CLASSES):
            is_k, said_k = label == k, (found == k) & (label != 65)
            inter[k] += (is_k & said_k).sum()
            union[k] += (is_k | said_k).sum()
    return inter, union, doubtful


@pytest.mark.parametrize('tta', [False, True])
def test_scores(tta, cfg, root):
    model = MODELS.build(cfg.model).eval()
    classifier = model.decode_head.seg_head.conv_seg
    torch.nn.init.normal_(classifier.weight, std=9)
    image = root / 'validation/images/0.jpg'
    logits = literal_logits(model, image, with_flip=False)
    with torch.no_grad():
        # All classes, not the few of this image's mean.
        classifier.bias -= logits.mean(dim=(0, 2, 3))
    scores = {}
    for scored_at in ('input', 'file'):
        # As test.py does it.
        cfg.merge_from_dict({'test_dataloader.dataset.scored_at': scored_at})
        dataset = cfg.test_dataloader.dataset
        runner_model = model
        if tta:
            dataset.pipeline = cfg.tta_pipeline
            runner_model = MODELS.build(dict(cfg.tta_model, module=model))
        dataset = DATASETS.build(dataset)
        # Which keeps the areas of each image for `results`.
        metric = METRICS.build(dict(cfg.test_evaluator, type='IoUMetric'))
        metric.dataset_meta = dataset.metainfo
        for i in range(len(dataset)):
            batch = pseudo_collate([dataset[i]])
            with torch.no_grad():
                results = runner_model.test_step(batch)
            assert 'seg_logits' not in results[0]
            metric.process(batch, [one.to_dict() for one in results])
        areas = [sum(parts) for parts in zip(*metric.results)]
        inter, union, doubtful = literal_score(model, root, scored_at, tta)
        np.testing.assert_allclose(areas[0], inter, atol=doubtful)
        np.testing.assert_allclose(areas[1], union, atol=doubtful)
        assert inter.sum() > 50
        assert doubtful < 0.01 * union.sum()
        found = metric.compute_metrics(metric.results)['mIoU']
        scores[scored_at] = 100 * np.nanmean(
            inter / np.where(union, union, np.nan)
        )
        assert found == pytest.approx(scores[scored_at], abs=0.02)
    # Two protocols, not one.
    assert abs(scores['input'] - scores['file']) > 1e-3
