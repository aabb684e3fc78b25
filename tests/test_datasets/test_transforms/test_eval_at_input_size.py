"""`EvalAtInputSize`: at which size a prediction is scored."""

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmseg.registry import METRICS, TRANSFORMS
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
    return dict(**paths, seg_fields=[], reduce_zero_label=False)


def with_resize(sample, **info):
    step = dict(type='EvalAtInputSize', resize=RESIZE)
    return Compose([*LOAD, step, PACK])(dict(sample, **info))


def test_label_is_scored_at_the_size_of_the_input(sample):
    expected = Compose(PIPELINE)(sample)
    for packed in (
        expected,
        with_resize(sample),
        with_resize(sample, scored_at='input'),
    ):
        assert packed['inputs'].shape == (3, 10, 20)
        assert torch.equal(packed['inputs'], expected['inputs'])
        found = packed['data_samples']
        assert found.gt_sem_seg.shape == found.ori_shape == (10, 20)
        assert torch.equal(
            found.gt_sem_seg.data, expected['data_samples'].gt_sem_seg.data
        )


def test_through_prediction_and_metric(sample, build_tiny):
    model = build_tiny(decode_head=dict(num_classes=3)).eval()
    data = Compose(PIPELINE)(sample)
    data = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
    (result,) = model.val_step(data)
    assert result.seg_logits.shape == (10, 20)
    metric = METRICS.build(dict(type='IoUMetric', iou_metrics=['mIoU']))
    metric.dataset_meta = dict(classes=['a', 'b', 'c'])
    metric.process(data, [result.to_dict()])
    # 10 rows of 20 pixels; the right half is class 2.
    assert metric.results[0][3].tolist() == [100, 0, 100]


def test_a_label_may_stay_as_the_file_is(sample):
    packed = with_resize(sample, scored_at='file')
    found = packed['data_samples']
    assert packed['inputs'].shape == (3, 10, 20)
    assert found.img_shape == (10, 20)
    assert found.ori_shape == found.gt_sem_seg.shape == (30, 60)
    label = np.array(Image.open(sample['seg_map_path']))
    np.testing.assert_array_equal(found.gt_sem_seg.data[0], label)
    # Later steps flip it as they flip the image.
    step = TRANSFORMS.build(dict(type='EvalAtInputSize', resize=RESIZE))
    results = Compose(LOAD)(dict(sample, scored_at='file', seg_fields=[]))
    assert step(results)['seg_fields'] == ['gt_seg_map']
    assert repr(step).startswith('EvalAtInputSize(resize=Resize(')


def test_without_label_the_size_of_the_file_stays(sample):
    del sample['seg_map_path']
    for packed in (
        Compose(PIPELINE)(sample),
        with_resize(sample, scored_at='input'),
        with_resize(sample, scored_at='file'),
    ):
        assert packed['data_samples'].img_shape == (10, 20)
        assert packed['data_samples'].ori_shape == (30, 60)


def test_labels_at_the_wrong_place(sample):
    late = [LOAD[0], RESIZE, LOAD[1], *PIPELINE[3:]]
    match = r'label\.png is 30x60 here, its image 10x20.*before `Resize`'
    with pytest.raises(ValueError, match=match):
        Compose(late)(sample)
    match = r'label\.png is 10x20 here, its image 30x60.*resize=dict\(type'
    with pytest.raises(ValueError, match=match):
        Compose(PIPELINE)(dict(sample, scored_at='file'))
