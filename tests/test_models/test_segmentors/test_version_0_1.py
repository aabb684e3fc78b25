"""A config and a checkpoint of version 0.1.

`checkpoint_v0.1.pth` was written by that version after one training step of
the model of `config_v0.1.py`. Its `meta` holds an image, uint8, and the logits
that version 0.1 gave for it, in evaluation mode.
"""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.apis import init_model
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

DATA = Path(__file__).parents[2] / 'data'
CONFIG = DATA / 'config_v0.1.py'
CHECKPOINT = DATA / 'checkpoint_v0.1.pth'


@pytest.fixture
def cfg():
    return Config.fromfile(CONFIG)


def as_batch(image, label=None):
    size = tuple(image.shape[1:])
    sample = SegDataSample(
        metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size)
    )
    if label is not None:
        sample.gt_sem_seg = PixelData(data=label)
    return dict(inputs=[image], data_samples=[sample])


@pytest.mark.parametrize('fast', [True, False])
def test_same_logits(fast, cfg, load):
    cfg.model.decode_head.fast = fast
    model = init_model(cfg, str(CHECKPOINT), device='cpu')
    assert list(model.dataset_meta['classes']) == ['a', 'b', 'c', 'd']
    checkpoint = load(CHECKPOINT)
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    meta = checkpoint['meta']
    with torch.no_grad():
        [result] = model.test_step(as_batch(meta['image']))
    assert meta['seg_logits'].std() > 1
    torch.testing.assert_close(
        result.seg_logits.data, meta['seg_logits'][0], rtol=0, atol=1e-5
    )
    classes = meta['seg_logits'].argmax(dim=1)
    assert torch.equal(result.pred_sem_seg.data, classes)


def test_training_goes_on(cfg, load):
    model = MODELS.build(cfg.model).train()
    checkpoint = load(CHECKPOINT)
    model.load_state_dict(checkpoint['state_dict'])
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    image = checkpoint['meta']['image']
    label = torch.randint(0, 4, (1, 8, 12))
    label = label.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    logs = [model.train_step(as_batch(image, label), optim) for _ in range(10)]
    assert {key for key in logs[0] if 'loss_' in key} == {
        'aux.loss_bce',
        'decode.loss_rmi',
        'scale_0.5.loss_bce',
        'scale_1.loss_bce',
    }
    assert logs[-1]['loss'] < logs[0]['loss'] - 0.1
