"""A result with all maps, small enough to count by hand."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

SIZE = (24, 40)
CLASSES = ('road', 'tree', 'sky')
PALETTE = [[128, 64, 128], [10, 200, 30], [70, 130, 180]]
SCALES = (0.5, 1.0, 2.0)


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def make_sample():
    """Return a function that makes a result of random maps."""

    def make(seed=0, scales=SCALES, labels=True, dtype=torch.int64, size=SIZE):
        rng = np.random.default_rng(seed)

        def classes(*shape):
            array = rng.integers(0, len(CLASSES), (*shape, *size))
            return torch.from_numpy(array)

        fields = dict(pred_sem_seg=classes(1).to(dtype))
        if labels:
            label = classes(1)
            label[:, :2] = 255
            fields['gt_sem_seg'] = label
        if scales:
            weights = rng.random((len(scales), *size), dtype=np.float32)
            weights /= weights.sum(axis=0)
            attn = rng.random((len(scales) - 1, *size), dtype=np.float32)
            confidence = rng.random((1, *size), dtype=np.float32)
            fields.update(
                scale_weights=torch.from_numpy(weights),
                scale_attn=torch.from_numpy(attn),
                scale_sem_seg=classes(len(scales)).to(torch.int16),
                confidence=torch.from_numpy(confidence),
            )
        sample = SegDataSample(metainfo=dict(img_path='some/city/photo.png'))
        if scales:
            sample.set_metainfo(dict(scales=scales))
        sample.set_data({k: PixelData(data=v) for k, v in fields.items()})
        return sample

    return make
