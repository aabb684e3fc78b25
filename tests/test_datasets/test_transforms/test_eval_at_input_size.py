"""`EvalAtInputSize`: at which size a prediction is scored."""

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmseg.registry import TRANSFORMS
from PIL import Image

RESIZE = dict(type='Resize', scale=(20, 20), keep_ratio=True)
LOAD = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=3),
]
PACK = dict(type='PackSegInputs')
PIPELINE = [*LOAD, RESIZE, dict(type='EvalAtInputSize'), PACK]


@pytest.fixture
def sample(tmp_path):
    label = np.zeros((30, 60), np.uint8)
    label[:, 30:] = 2
    paths = dict(
        img_path=str(tmp_path / 'image.png'),
        seg_map_path=str(tmp_path / 'label.png'),
    )
    Image.fromarray(np.zeros((30, 60, 3), np.uint8)).save(paths['img_path'])
    Image.fromarray(label).save(paths['seg_map_path'])
    return dict(**paths, reduce_zero_label=False)


def with_resize(sample, **info):
    step = dict(type='EvalAtInputSize', resize=RESIZE)
    return Compose([*LOAD, step, PACK])(dict(sample, **info))


def test_sizes_of_input_label_and_score(sample):
    expected = Compose(PIPELINE)(dict(sample))
    packed = with_resize(sample, scored_at='input')
    assert packed['inputs'].shape == (3, 10, 20)
    assert torch.equal(packed['inputs'], expected['inputs'])
    for found in (packed['data_samples'], expected['data_samples']):
        label = found.gt_sem_seg.data[0]
        assert label.shape == found.ori_shape == (10, 20)
        assert label.tolist() == [[0] * 10 + [2] * 10] * 10

    packed = with_resize(sample, scored_at='file')
    found = packed['data_samples']
    assert packed['inputs'].shape == (3, 10, 20)
    assert found.img_shape == (10, 20)
    assert found.ori_shape == found.gt_sem_seg.shape == (30, 60)
    label = np.array(Image.open(sample['seg_map_path']))
    np.testing.assert_array_equal(found.gt_sem_seg.data[0], label)
    # Later steps flip it as they flip the image.
    step = TRANSFORMS.build(dict(type='EvalAtInputSize', resize=RESIZE))
    results = Compose(LOAD)(dict(sample, scored_at='file'))
    assert step(results)['seg_fields'] == ['gt_seg_map']
    assert repr(step).startswith('EvalAtInputSize(resize=Resize(')

    # Predictions without label have the size of the file.
    del sample['seg_map_path']
    for packed in (with_resize(sample), Compose(PIPELINE)(sample)):
        assert packed['data_samples'].img_shape == (10, 20)
        assert packed['data_samples'].ori_shape == (30, 60)


@pytest.mark.fault(
    'labels are loaded on the wrong side of the resize of a test',
    'refused, with both sizes',
)
def test_labels_at_the_wrong_place(sample):
    late = [LOAD[0], RESIZE, LOAD[1], *PIPELINE[3:]]
    match = r'label\.png is 30x60 here, its image 10x20.*before `Resize`'
    with pytest.raises(ValueError, match=match):
        Compose(late)(sample)
    match = r'label\.png is 10x20 here, its image 30x60.*resize=dict\(type'
    with pytest.raises(ValueError, match=match):
        Compose(PIPELINE)(dict(sample, scored_at='file'))
