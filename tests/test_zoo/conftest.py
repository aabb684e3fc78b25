"""Configs of the installed zoo, read and converted once."""

import copy
from functools import cache

import pytest
import torch
from benchmarks.networks import samples
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
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

    def make(model, channels=3):
        label = torch.randint(model.num_classes, (2, *SIZE))
        return torch.randn(2, channels, *SIZE), samples(label)

    return make
