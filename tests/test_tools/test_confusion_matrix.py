"""Confusion is counted right, for any number of classes, and shown."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS
from PIL import Image

from hmsa_mmseg.analysis.confusion_matrix import normalised
from hmsa_mmseg.analysis.confusion_plot import draw_confusion
from hmsa_mmseg.utils.confusion import count_confusion

TOOL = 'analysis_tools/confusion_matrix.py'
CLASSES = tuple(f'class {i}' for i in range(19))
NAMES = ('b', 'a', 'c')
SIZE = (12, 20)


@pytest.fixture
def tool(load_tool, monkeypatch):
    tool = load_tool(TOOL)
    monkeypatch.setattr(tool, 'DPI', 30)
    return tool


@pytest.fixture
def case(request, tmp_path):
    """A data set, and predictions as IoUMetric writes and scores them."""
    reduces = getattr(request, 'param', False)
    rng = np.random.default_rng(0)
    maps = tmp_path / 'maps'
    metric = IoUMetric(output_dir=str(maps))
    metric.dataset_meta = dict(classes=CLASSES)
    expected = np.zeros((19, 19), np.int64)
    for name in NAMES:
        # All classes but 7, which is neither there nor predicted.
        label = rng.integers(0, 18, SIZE)
        label += label >= 7
        prediction = np.where(rng.random(SIZE) < 0.5, label, label[::-1])
        label[:2] = 255
        for t, p in zip(label.flat, prediction.flat):
            if t != 255:
                expected[t, p] += 1
        file = np.where(label == 255, 0, label + 1) if reduces else label
        for folder, array in (('images', label), ('labels', file)):
            path = tmp_path / folder / f'{name}.png'
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
        sample = dict(
            gt_sem_seg=dict(data=torch.from_numpy(label)[None]),
            pred_sem_seg=dict(data=torch.from_numpy(prediction)[None]),
            img_path=f'images/{name}.png',
            reduce_zero_label=reduces,
        )
        metric.process({}, [sample])
    # An order other than that of the names, as that of a list of images.
    (tmp_path / 'list.txt').write_text('\n'.join(NAMES))
    dataset = dict(
        type='BaseSegDataset',
        metainfo=dict(classes=CLASSES),
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        ann_file='list.txt',
        img_suffix='.png',
        reduce_zero_label=reduces,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', reduce_zero_label=reduces),
            dict(type='PackSegInputs'),
        ],
    )
    config = tmp_path / 'config.py'
    Config(dict(test_dataloader=dict(dataset=dataset))).dump(config)
    scored = metric.total_area_to_metrics(
        *(sum(parts) for parts in zip(*metric.results))
    )
    return SimpleNamespace(
        dataset=dataset,
        config=config,
        maps=maps,
        out=tmp_path / 'out',
        expected=expected,
        scored=scored,
        args=[str(config), str(maps), str(tmp_path / 'out')],
    )


def test_stock_miscounts(case, run_stock):
    """With 8 bits, 19 classes, and maps in the order of their names."""
    count = run_stock(TOOL, name='stock')['calculate_confusion_matrix']
    dataset = DATASETS.build(case.dataset)
    # It looks at the class of the data set, not at its settings.
    dataset.METAINFO = dataset.metainfo
    results = [np.array(Image.open(case.maps / f'{n}.png')) for n in NAMES]
    with np.errstate(over='ignore'):
        try:
            found = count(dataset, results)
        except ValueError:  # more than 19 * 19 counters
            found = None
    assert found is None or not np.array_equal(found, case.expected), (
        f"mmseg's {TOOL} works again: tools/{TOOL} and its tests can go, and "
        'its row in docs/tools.md changes'
    )


@pytest.mark.parametrize(
    'case', [False, True], ids=['plain', 'reduce_zero_label'], indirect=True
)
def test_counts_and_scores(case, tool, capsys):
    assert tool.main(case.args) == 0
    with (case.out / 'confusion_matrix.csv').open() as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == list(CLASSES)
    counts = np.array([row[1:] for row in rows]).astype(int)
    np.testing.assert_array_equal(counts, case.expected)

    found = json.loads((case.out / 'confusion_matrix.json').read_text())
    assert found['pixels'] == case.expected.tolist()
    for name in ('IoU', 'Acc'):
        expected = 100 * case.scored[name]
        assert np.isnan(expected[7])
        assert found[name][7] is None
        values = np.array(found[name], float)
        np.testing.assert_allclose(values, expected, atol=1e-3)
        mean = np.nanmean(expected)
        assert found[f'm{name}'] == pytest.approx(mean, abs=1e-3)
    expected = 100 * float(case.scored['aAcc'])
    assert found['aAcc'] == pytest.approx(expected, abs=1e-3)
    said = capsys.readouterr().out
    assert f'mIoU: {np.nanmean(100 * case.scored["IoU"]):.2f}' in said
    # The most frequent mistake, by its share of the class that is there.
    share = case.expected / np.maximum(case.expected.sum(1), 1)[:, None]
    np.fill_diagonal(share, 0)
    t = np.unravel_index(share.argmax(), share.shape)[0]
    assert f'{100 * share.max():.1f}% of class {t} is taken for class' in said
    with Image.open(case.out / 'confusion_matrix.png') as picture:
        assert min(picture.size) > 300


@pytest.fixture
def fails(case, tool, capsys):
    """Return a function that fails to count, and gives the message."""

    def run():
        assert tool.main(case.args) == 1
        assert not case.out.exists()
        return capsys.readouterr().err

    return run


@pytest.mark.fault(
    'predictions of other sizes, values or names: confusion matrix',
    'refused, with the path',
)
def test_maps_that_do_not_fit(case, fails):
    path = case.maps / 'a.png'
    pixels = np.array(Image.open(path))
    wrong = pixels.copy()
    wrong[5, 5] = 33
    for array, message in (
        (pixels[:, ::2], 'the prediction is 12 x 10, its'),
        (wrong, 'the prediction holds 33; expected classes from 0'),
        (np.stack([pixels] * 3, axis=-1), 'expected a map of classes'),
    ):
        Image.fromarray(array).save(path)
        said = fails()
        assert message in said
        assert str(path) in said
    # Maps are matched by name.
    (case.maps / 'b.png').rename(case.maps / 'd.png')
    said = fails()
    assert '1 are missing: b.png' in said
    assert '1 belong to no image: d.png' in said


def test_data_sets_that_cannot_be_counted(case, fails):
    one = case.dataset
    # 255 is no class if another value is ignored, also of a wrapped data set.
    other = dict(one, ignore_index=3)
    for loader, message in (
        (dict(type='ConcatDataset', datasets=[one, one]), 'share a file name'),
        (None, f'{case.config} has no test_dataloader'),
        (
            dict(type='ConcatDataset', datasets=[other]),
            'the label holds 255; expected classes from 0 to 18',
        ),
    ):
        loader = loader and dict(dataset=loader)
        Config(dict(test_dataloader=loader)).dump(case.config)
        assert message in fails()


def test_count_confusion():
    label = np.array([[0, 1, 9, 64]], np.uint8)
    prediction = np.array([[1, 1, 200, 63]], np.uint8)
    found = count_confusion(label, prediction, 65, ignore_index=9)
    assert found.sum() == 3
    assert found[0, 1] == found[1, 1] == found[64, 63] == 1
    with pytest.raises(ValueError, match=r'label holds 9; .*from 0 to 4'):
        count_confusion(label[:, :3], prediction[:, :3], 5, ignore_index=255)


def test_picture():
    matrix = np.array([[1234, 6, 0], [1, 40, 9], [0, 0, 0]])
    for by, expected in (
        ('rows', {'99.5', '0.5', '2.0', '80.0'}),
        ('columns', {'99.9', '13.0', '0.1'}),
        ('none', {'1.23k', '6', '40'}),
    ):
        figure = draw_confusion(
            normalised(matrix, by), list('abc'), by, 'Title', 'viridis'
        )
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert expected <= {*texts}
        assert len(texts) == 5
    # The cells of many classes have no numbers.
    labels = [f'class {i}' for i in range(65)]
    figure = draw_confusion(np.eye(65), labels, 'rows', '', 'cividis')
    assert not figure.axes[0].texts
    with pytest.raises(ValueError, match="'jett' is no colour map"):
        draw_confusion(np.eye(2), ['a', 'b'], 'rows', '', 'jett')
