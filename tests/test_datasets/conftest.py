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
def capture_log(monkeypatch):
    """Return a function for the warnings logged so far."""
    logger = logging.getLogger('test_datasets')
    records = []
    monkeypatch.setattr(logger, 'handle', records.append)
    monkeypatch.setattr(
        MMLogger, 'get_current_instance', staticmethod(lambda: logger)
    )

    def warnings():
        return [
            record.getMessage()
            for record in records
            if record.levelno == logging.WARNING
        ]

    return warnings
