"""Tiny data sets of mmseg, with labels that differ from file to file."""

import logging

import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmseg.registry import DATASETS
from PIL import Image

CLASSES = ('road', 'car', 'pole', 'sky')
CROP_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(32, 24),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='CentroidRandomCrop', crop_size=(16, 20)),
    dict(type='PackSegInputs'),
]


@pytest.fixture(autouse=True)
def _no_cache_in_home(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))


@pytest.fixture
def write_set():
    """Return a function that writes images and labels below a folder."""

    def write(root, count=6, size=(24, 32), values=(0, 1, 2, 3, 255), seed=0):
        rng = np.random.default_rng(seed)
        for folder in ('img', 'ann'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            image = rng.integers(0, 256, (*size, 3), np.uint8)
            label = rng.choice(np.array(values, np.uint8), size)
            Image.fromarray(image).save(root / 'img' / f'{k:03d}.png')
            Image.fromarray(label).save(root / 'ann' / f'{k:03d}.png')
        return root

    return write


@pytest.fixture
def set_cfg():
    """Return a function for the config of a dataset that was written."""

    def make(root, pipeline=CROP_PIPELINE, **kwargs):
        return dict(
            type='BaseSegDataset',
            data_root=str(root),
            data_prefix=dict(img_path='img', seg_map_path='ann'),
            img_suffix='.png',
            metainfo=dict(classes=CLASSES),
            pipeline=pipeline,
            **kwargs,
        )

    return make


@pytest.fixture
def class_uniform():
    """Return a function that wraps a dataset's config and builds it."""

    def build(cfg, **kwargs):
        return DATASETS.build(
            dict(type='ClassUniformDataset', dataset=cfg, **kwargs)
        )

    return build


@pytest.fixture
def logged(monkeypatch):
    """Return a function for the messages of a level logged so far."""
    logger = logging.getLogger('test_datasets')
    logger.setLevel(logging.INFO)
    records = []
    monkeypatch.setattr(logger, 'handle', records.append)
    monkeypatch.setattr(
        MMLogger, 'get_current_instance', staticmethod(lambda: logger)
    )
    return lambda level: [
        r.getMessage() for r in records if r.levelname == level
    ]


# Of road, building, car, truck, bus, train and bicycle.
LABEL_IDS = (7, 11, 26, 27, 28, 31, 33)
EXTRA_STEMS = ('augsburg/augsburg_000000_000000', 'bayreuth/bayreuth_1_2')


@pytest.fixture
def write_png():
    """Return a function that writes an image and its folders."""

    def write(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels, np.uint8)).save(path)

    return write


@pytest.fixture
def cityscapes_extra(tmp_path, write_png):
    """Return the root of auto-labelled and coarse images as they unpack."""
    rng = np.random.default_rng(0)
    size = (32, 64)
    for stem in EXTRA_STEMS:
        image = rng.integers(0, 256, (*size, 3))
        label, coarse = (rng.choice(LABEL_IDS, size) for _ in range(2))
        for name, pixels in {
            f'leftImg8bit/train_extra/{stem}_leftImg8bit.png': image,
            f'gtCoarse/train_extra/{stem}_gtCoarse_labelIds.png': coarse,
            f'refinement_final/train_extra/{stem}_leftImg8bit.png': label,
            f'refinement_final/train_extra/{stem}_leftImg8bit_prob.png': (
                rng.integers(0, 256, size)
            ),
        }.items():
            write_png(tmp_path / name, pixels)
    # Left in the authors' archive.
    (tmp_path / 'refinement_final/tmp').mkdir()
    (tmp_path / 'refinement_final/tmp/junk_leftImg8bit.png').touch()
    return tmp_path
