"""The numbers of a report on auto-labels, against counts by hand."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.evaluation import IoUMetric
from numpy.testing import assert_allclose, assert_array_equal
from test_reports.label_sets import (
    CLASSES,
    fake_pairs,
    write_config,
    write_tree,
    write_truths,
)

from hmsa_mmseg.reports import ReportOptions, make_report
from hmsa_mmseg.reports.label_truths import Truths

NAMES = [f'{city}/{i:02}' for city in 'ab' for i in range(5)]
PAIRS, TRUTHS = fake_pairs(NAMES)
BEFORE, _ = fake_pairs(NAMES, seed=1)
KEPT = 192  # the lowest value that 0.75 keeps
KEY = 'config:val_dataloader'
OPTIONS = dict(labelled=KEY, prior=KEY, threshold=0.75)


def stacked(pairs, index):
    return np.stack([pairs[name][index] for name in NAMES])


all_labels, all_values = stacked(PAIRS, 0), stacked(PAIRS, 1)
all_truths = np.stack([TRUTHS[name] for name in NAMES])
known = all_truths != 255
# What the values stand for: the middle of the confidences.
sure = np.minimum(all_values + 0.5, 255) / 255


def close(found, expected):
    assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('report')
    write_tree(root / 'out', PAIRS)
    write_tree(root / 'out/check', PAIRS)
    write_tree(root / 'before', BEFORE)
    write_truths(root / 'data', TRUTHS)
    write_config(root / 'config.py', val_dataloader=root / 'data')
    return root


@pytest.fixture(scope='module')
def data(root):
    options = ReportOptions(
        **OPTIONS,
        config=str(root / 'config.py'),
        previous=root / 'before',
        low_coverage=0.25,
        worst=3,
        workers=0,
    )
    path = make_report(root / 'out', options).with_suffix('.json')
    written = path.read_bytes()
    make_report(root / 'out', options._replace(workers=2))
    assert path.read_bytes() == written
    return json.loads(written)


def test_coverage(data):
    part = data['coverage']
    for i, threshold in enumerate(part['thresholds']):
        kept = all_values / 255 >= threshold
        close(part['overall'][i], kept.mean())
        shares = [kept[all_labels == k].mean() for k in range(4)]
        close([row[i] for row in part['classes']], shares)
    assert part['curve'][0] == 1
    close(part['curve'][KEPT], (all_values >= KEPT).mean())


def test_classes_against_the_prior(data):
    kept = all_values >= KEPT
    for k, row in enumerate(data['class_rows']):
        mine = all_labels == k
        share, true = mine[kept].mean(), (all_truths == k).sum() / known.sum()
        assert row['name'] == CLASSES[k]
        counts = (mine.sum(), (mine & kept).sum())
        assert (row['pixels'], row['kept']) == counts
        close(row['share'], share)
        close(row['prior'], true)
        close(row['ratio'], share / true)
        close(row['mean_confidence'], sure[mine].mean())
        edges = np.append(np.arange(15) * 17, 256)
        bars, _ = np.histogram(all_values[mine], edges)
        close(row['histogram'], bars / mine.sum())
    assert data['prior']['labels'] == len(NAMES)


def test_truth(data):
    part = data['check']
    assert part['images'] == len(NAMES)
    assert (part['without']['count'], part['unused']) == (0, 0)
    assert part['pixels'] == known.sum()
    for i, row in enumerate(part['thresholds']):
        kept = known & (all_values / 255 >= row['threshold'])
        close(row['coverage'], kept.sum() / known.sum())
        close(row['precision'], (all_labels == all_truths)[kept].mean())
        ious = []
        for k, found in enumerate(part['classes']):
            true, given = kept & (all_truths == k), kept & (all_labels == k)
            both, everything = (true & given).sum(), (all_truths == k).sum()
            ious.append(both / (true | given).sum())
            close(found['precision'][i], both / given.sum())
            close(found['recall'][i], both / everything)
            close(found['coverage'][i], true.sum() / everything)
            close(found['iou'][i], ious[-1])
            pairs = np.bincount(all_labels[true], minlength=4)
            assert_array_equal(part['confusion'][i][k], pairs)
        close(row['miou'], np.mean(ious))
    intersect, union, *_ = IoUMetric.intersect_and_union(
        torch.from_numpy(all_labels), torch.from_numpy(all_truths), 4, 255
    )
    close(part['thresholds'][0]['miou'], (intersect / union).mean())


def test_calibration(data):
    part, right = data['check'], (all_labels == all_truths)[known]
    assert sum(one['pixels'] for one in part['bins']) == known.sum()
    # The labels are drawn so.
    assert part['ece'] < 0.03
    close(part['excess'], sure[known].mean() - right.mean())
    close(part['curve'][KEPT], right[all_values[known] >= KEPT].mean())
    suggestion = part['suggestion']
    assert suggestion['threshold'] == pytest.approx(0.5, abs=0.08)
    kept = all_values[known] / 255 >= suggestion['threshold']
    close(suggestion['coverage'], kept.mean())
    close(suggestion['precision'], right[kept].mean())
    of_all = (all_values / 255 >= suggestion['threshold']).mean()
    close(suggestion['coverage_of_all'], of_all)
    sky = known & (all_labels == 3)
    precision = (all_truths == 3)[sky].mean()
    close(part['calibration'][3], sure[sky].mean() - precision)


def test_changes(data):
    part = data['changes']
    old, trusted = stacked(BEFORE, 0), stacked(BEFORE, 1)
    changed = old != all_labels
    kept = (all_values >= KEPT) & (trusted >= KEPT)
    close(part['changed'], changed.mean())
    assert part['kept'] == kept.sum()
    close(part['kept_changed'], changed[kept].mean())
    for k, row in enumerate(part['classes']):
        close(row['changed'], changed[old == k].mean())
    first = part['turned'][0]
    before, now = (CLASSES.index(first[key]) for key in ('before', 'now'))
    assert first['pixels'] == ((old == before) & (all_labels == now)).sum()
    pixels = [row['pixels'] for row in part['turned']]
    assert pixels == sorted(pixels, reverse=True)
    by_image = changed.mean((1, 2))
    worst = np.argsort(-by_image)[:3]
    assert [row['name'] for row in part['worst']] == [NAMES[i] for i in worst]
    close(part['worst'][0]['changed'], by_image.max())


def test_worst_images(data, root):
    part = data['worst']
    shares = (all_values >= KEPT).mean((1, 2))
    order = [NAMES[i] for i in np.argsort(shares, kind='stable')]
    assert [row['name'] for row in part['worst']] == order[:3]
    assert part['count'] == (shares < 0.25).sum() > 0
    assert [row['name'] for row in part['low']] == order[: part['count']]
    row = part['worst'][0]
    assert (root / 'out' / row['label']).is_file()
    assert (root / 'out' / row['prob']).is_file()
    close(row['coverage'], shares.min())


def test_labels_are_found_by_names(root):
    cfg = Config.fromfile(root / 'config.py')
    truths = Truths(cfg, KEY, CLASSES)
    found = truths.match(['train/a/03', '03', 'c/03', 'b/99'])
    # '03' is in a and in b; c is another folder.
    assert found == {'train/a/03': 3}
    # One label is of one image: of that whose name is the same, if any.
    assert truths.match(['train/a/03', 'val/a/03']) == {}
    assert truths.match(['train/a/03', 'a/03']) == {'a/03': 3}
    with pytest.raises(ValueError, match='its 4 classes'):
        Truths(cfg, KEY, ('road', 'sky'))
    # Several labels of one name belong to nothing.
    part = cfg.val_dataloader.dataset
    twice = dict(type='ConcatDataset', datasets=[part, part])
    cfg.val_dataloader = dict(dataset=twice)
    truths = Truths(cfg, KEY, CLASSES)
    assert len(truths) == 2 * len(NAMES)
    assert truths.match(NAMES) == {}


def test_labels_that_do_not_fit(tmp_path):
    truths = {name: TRUTHS[name].copy() for name in NAMES[:4]}
    truths[NAMES[0]] = truths[NAMES[0]][:, :60]
    truths[NAMES[1]][0, 0] = 9
    write_truths(tmp_path / 'data', truths)
    path = tmp_path / f'data/masks/{NAMES[2]}.png'
    path.write_bytes(path.read_bytes()[:60])
    config = write_config(
        tmp_path / 'config.py', val_dataloader=tmp_path / 'data'
    )
    out = write_tree(tmp_path / 'out', PAIRS)
    write_tree(out / 'check', PAIRS)
    make_report(out, ReportOptions(**OPTIONS, config=config, workers=0))
    data = json.loads((out / 'report.json').read_text())
    part = data['check']
    assert part['images'] == 1
    assert part['without']['count'] == 6
    errors = {row['name']: row['error'] for row in part['damaged']}
    assert [*errors] == NAMES[:3]
    assert '32x60; expected 32x64' in errors[NAMES[0]]
    assert '9' in errors[NAMES[1]]
    assert 'not a readable label' in errors[NAMES[2]]
    # Its pixels are still counted as auto-labels.
    assert data['images']['pixels'] == all_labels.size
    assert len(data['prior']['damaged']) == 2
    assert '3 true labels could not be read' in ' '.join(data['notes'])
    read = [truths[name] for name in (NAMES[0], NAMES[3])]
    roads = sum((one == 0).sum() for one in read)
    pixels = sum((one != 255).sum() for one in read)
    close(data['class_rows'][0]['prior'], roads / pixels)
