"""A result with all maps, small enough to count by hand."""

import numpy as np
import pytest
import torch
from test_reports import show_dirs

SIZE = (24, 40)
CLASSES = ('road', 'tree', 'sky')
PALETTE = [[128, 64, 128], [10, 200, 30], [70, 130, 180]]
SCALES = show_dirs.SCALES


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def make_sample():
    """Return a function that makes a result of random maps."""

    def make(scales=SCALES, labels=True, dtype=torch.int64):
        sample = show_dirs.make_sample(0, 0.5, scales, labels, SIZE)
        sample.set_metainfo(dict(img_path='some/city/photo.png'))
        classes = sample.pred_sem_seg
        classes.data = classes.data.to(dtype)
        return sample

    return make
