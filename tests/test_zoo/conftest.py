"""Configs of the installed zoo, read and converted once."""

import copy
from functools import cache

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from test_zoo.small_models import make_tiny

from hmsa_mmseg.zoo import convert, find_config
from hmsa_mmseg.zoo.writing import read_zoo_config

SIZE = (64, 64)


@cache
def _read(name):
    return read_zoo_config(find_config(name))


@cache
def _convert(name):
    return convert(_read(name), test_scales=(0.5, 1.0))


@pytest.fixture
def zoo_config():
    """Return a function that reads a config of the zoo; not to be changed."""
    return _read


@pytest.fixture
def converted():
    """Return a function that converts one; not to be changed."""
    return _convert


@pytest.fixture
def fresh():
    """Return a function that gives a conversion which may be changed."""
    return lambda name: copy.deepcopy(_convert(name))


@pytest.fixture
def build_small():
    """Return a function that builds the small model of a config."""

    def build(cfg, **kwargs):
        return MODELS.build(ConfigDict(make_tiny(cfg.model, **kwargs)))

    return build


@pytest.fixture
def make_small_batch():
    """Return a function that makes images and labels for a model."""

    def make(model, channels=3, batch_size=2, size=SIZE):
        samples = [
            SegDataSample(
                gt_sem_seg=PixelData(
                    data=torch.randint(model.num_classes, (1, *size))
                ),
                # PIDNet's third label.
                gt_edge_map=PixelData(data=torch.randint(2, (1, *size))),
                metainfo=dict(
                    ori_shape=size,
                    img_shape=size,
                    pad_shape=size,
                    padding_size=[0] * 4,
                ),
            )
            for _ in range(batch_size)
        ]
        return torch.randn(batch_size, channels, *size), samples

    return make
