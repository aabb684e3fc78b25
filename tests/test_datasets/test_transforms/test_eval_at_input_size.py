import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.registry import METRICS, TRANSFORMS
from PIL import Image

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegLabels', num_classes=3),
    dict(type='Resize', scale=(20, 20), keep_ratio=True),
    dict(type='EvalAtInputSize'),
    dict(type='PackSegInputs'),
]


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
    return dict(**paths, seg_fields=[], reduce_zero_label=False)


def test_label_is_scored_at_the_size_of_the_input(sample):
    packed = Compose(PIPELINE)(sample)
    found = packed['data_samples']
    assert packed['inputs'].shape == (3, 10, 20)
    assert found.gt_sem_seg.shape == (10, 20)
    assert found.ori_shape == (10, 20)


def test_through_prediction_and_metric(sample, build_tiny):
    model = build_tiny(decode_head=dict(num_classes=3)).eval()
    data = Compose(PIPELINE)(sample)
    data = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    (result,) = model.val_step(data)
    assert result.seg_logits.shape == (10, 20)
    metric = METRICS.build(dict(type='IoUMetric', iou_metrics=['mIoU']))
    metric.dataset_meta = dict(classes=['a', 'b', 'c'])
    metric.process(data, [result.to_dict()])
    labelled = metric.results[0][3]
    # 10 rows of 20 pixels; the right half is class 2.
    assert labelled.tolist() == [100, 0, 100]


def test_without_label_the_size_of_the_file_stays(sample):
    del sample['seg_map_path']
    found = Compose(PIPELINE)(sample)['data_samples']
    assert found.img_shape == (10, 20)
    assert found.ori_shape == (30, 60)


def test_label_loaded_too_late(sample):
    pipeline = Config(dict(steps=PIPELINE)).steps
    pipeline[1], pipeline[2] = pipeline[2], pipeline[1]
    with pytest.raises(
        ValueError,
        match=r'label\.png is 30x60 here, its image 10x20.*before `Resize`',
    ):
        Compose(pipeline)(sample)


RESIZE = dict(type='Resize', scale=(20, 20), keep_ratio=True)


def with_resize(sample, scored_at=None):
    steps = [*PIPELINE[:2], dict(type='EvalAtInputSize', resize=RESIZE)]
    sample = dict(sample, **({'scored_at': scored_at} if scored_at else {}))
    return Compose([*steps, PIPELINE[-1]])(sample)


@pytest.mark.parametrize('scored_at', [None, 'input'])
def test_it_may_hold_the_resize(sample, scored_at):
    found = with_resize(sample, scored_at)
    expected = Compose(PIPELINE)(sample)
    assert torch.equal(found['inputs'], expected['inputs'])
    label, expected = found['data_samples'], expected['data_samples']
    assert torch.equal(label.gt_sem_seg.data, expected.gt_sem_seg.data)
    assert label.ori_shape == expected.ori_shape == (10, 20)


def test_a_label_may_stay_as_the_file_is(sample):
    packed = with_resize(sample, 'file')
    found = packed['data_samples']
    assert packed['inputs'].shape == (3, 10, 20)
    assert found.img_shape == (10, 20)
    assert found.ori_shape == found.gt_sem_seg.shape == (30, 60)
    label = np.array(Image.open(sample['seg_map_path']))
    np.testing.assert_array_equal(found.gt_sem_seg.data[0], label)
    # Later steps flip it as they flip the image.
    step = TRANSFORMS.build(dict(type='EvalAtInputSize', resize=RESIZE))
    results = Compose(PIPELINE[:2])(
        dict(sample, scored_at='file', seg_fields=[])
    )
    assert step(results)['seg_fields'] == ['gt_seg_map']


def test_a_label_that_should_have_stayed(sample):
    with pytest.raises(
        ValueError,
        match=r'label\.png is 10x20 here, its image 30x60.*resize=dict\(type',
    ):
        Compose(PIPELINE)(dict(sample, scored_at='file'))


def test_without_label_it_resizes(sample):
    del sample['seg_map_path']
    for scored_at in ('input', 'file'):
        packed = with_resize(sample, scored_at)
        assert packed['inputs'].shape == (3, 10, 20)
        assert packed['data_samples'].ori_shape == (30, 60)


def test_arguments():
    transform = TRANSFORMS.build(dict(type='EvalAtInputSize'))
    assert repr(transform) == 'EvalAtInputSize()'
    transform = TRANSFORMS.build(dict(type='EvalAtInputSize', resize=RESIZE))
    assert repr(transform).startswith('EvalAtInputSize(resize=Resize(')
