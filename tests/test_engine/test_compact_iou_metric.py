"""`CompactIoUMetric`: the scores of mmseg's, without its tensors."""

import gc

import pytest
import torch
from mmseg.evaluation import IoUMetric

from hmsa_mmseg.engine import CompactIoUMetric


def batches(number):
    """Batches of one or two images of odd sizes, some pixels ignored."""
    generator = torch.Generator().manual_seed(0)
    for index in range(number):
        found = []
        for _ in range(1 + index % 2):
            size = (1, 7 + index % 3, 11)
            maps = torch.randint(0, 5, (2, *size), generator=generator)
            maps[1, :, 0] = 255
            names = 'pred_sem_seg', 'gt_sem_seg'
            found.append({n: dict(data=m) for n, m in zip(names, maps)})
        yield found


@pytest.fixture
def build():
    def build(kind, **kwargs):
        metric = kind(iou_metrics=['mIoU', 'mDice'], **kwargs)
        metric.dataset_meta = dict(classes=tuple('abcde'))
        return metric

    return build


@pytest.mark.parametrize('number', [1, 400, 800])
def test_scores_are_those_of_mmseg(build, number):
    """Also of a second round, and without what pads the last batch."""
    metrics = [build(kind) for kind in (IoUMetric, CompactIoUMetric)]
    for size in (1200, number):
        found = []
        for metric in metrics:
            for batch in batches(number):
                metric.process({}, batch)
            found.append(metric.evaluate(size))
        assert found[0] == found[1]


def test_no_tensors_are_kept(build):
    metric = build(CompactIoUMetric)

    def tensors():
        gc.collect()
        return sum(type(x) is torch.Tensor for x in gc.get_objects())

    before = tensors()
    for batch in batches(20):
        metric.process({}, batch)
    del batch
    assert tensors() == before
    assert metric.results == []


def test_only_written_results(build, tmp_path):
    metric = build(CompactIoUMetric, format_only=True, output_dir=tmp_path)
    (batch,) = batches(1)
    metric.process({}, [dict(batch[0], img_path='a/b.jpg')])
    assert metric.evaluate(1) == {}
    assert (tmp_path / 'b.png').exists()
