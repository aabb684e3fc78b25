import numpy as np
import pytest
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


def test_has_no_arguments():
    transform = TRANSFORMS.build(dict(type='EvalAtInputSize'))
    assert repr(transform) == 'EvalAtInputSize()'
