"""What a report says, against counts by hand."""

import numpy as np
import pytest
from mmengine.config import Config
from test_reports.label_sets import (
    CLASSES,
    config_text,
    fake_pairs,
    write_tree,
    write_truths,
)

from hmsa_mmseg.autolabel.statistics import all_thresholds
from hmsa_mmseg.reports.label_counts import (
    count_classes,
    count_labels,
)
from hmsa_mmseg.reports.label_figures import (
    calibration_part,
    change_part,
    class_part,
    coverage_part,
    truth_part,
    worst_part,
)
from hmsa_mmseg.reports.label_set import read_label_set
from hmsa_mmseg.reports.label_truths import Truths

NAMES = [f'{city}/{i:02}' for city in 'ab' for i in range(5)]
PAIRS, TRUTHS = fake_pairs(NAMES)
BEFORE, _ = fake_pairs(NAMES, seed=1)
THRESHOLDS = all_thresholds(0.75)
AT = THRESHOLDS.index(0.75)
KEPT = 192  # the lowest value that 0.75 keeps


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('report')
    write_tree(root / 'out', PAIRS)
    write_tree(root / 'before', BEFORE)
    write_truths(root / 'data', TRUTHS)
    (root / 'config.py').write_text(config_text(val_dataloader=root / 'data'))
    return root


@pytest.fixture(scope='module')
def cfg(root):
    return Config.fromfile(root / 'config.py')


@pytest.fixture(scope='module')
def truths(cfg):
    return Truths(cfg, 'config:val_dataloader', CLASSES)


@pytest.fixture(scope='module')
def tree(root):
    return read_label_set(root / 'out')


@pytest.fixture(scope='module')
def counts(root, tree, truths):
    previous = read_label_set(root / 'before')
    return count_labels(tree, THRESHOLDS, 0.75, truths, previous)


def stacked(pairs, index):
    return np.stack([pairs[name][index] for name in NAMES])


all_labels, all_values = stacked(PAIRS, 0), stacked(PAIRS, 1)
all_truths = np.stack([TRUTHS[name] for name in NAMES])


def test_processes_change_nothing(root, tree, truths, counts):
    done = []
    again = count_labels(
        tree,
        THRESHOLDS,
        0.75,
        truths,
        read_label_set(root / 'before'),
        workers=2,
        progress=done.append,
    )
    assert sum(done) == len(NAMES)
    np.testing.assert_array_equal(again.pixels, counts.pixels)
    np.testing.assert_array_equal(again.changes, counts.changes)
    for one, two in zip(again.truth, counts.truth):
        np.testing.assert_array_equal(one, two)
    assert [image['name'] for image in again.images] == NAMES
    assert again.images == counts.images


def test_coverage(counts):
    part = coverage_part(counts.pixels, THRESHOLDS)
    for i, threshold in enumerate(THRESHOLDS):
        kept = all_values / 255 >= threshold
        assert part['overall'][i] == pytest.approx(kept.mean(), abs=1e-8)
        for k in range(len(CLASSES)):
            assert part['classes'][k][i] == pytest.approx(
                kept[all_labels == k].mean(), abs=1e-8
            )
    assert part['curve'][0] == 1
    assert part['curve'][KEPT] == part['overall'][AT]


def test_classes_against_the_prior(counts, truths):
    prior, failed = count_classes(truths)
    assert failed == []
    np.testing.assert_array_equal(
        prior, [(all_truths == k).sum() for k in range(4)]
    )
    rows = class_part(counts.pixels, CLASSES, 0.75, prior)
    kept = all_values >= KEPT
    for k, row in enumerate(rows):
        mine = all_labels == k
        share = mine[kept].mean()
        true = (all_truths == k).sum() / (all_truths != 255).sum()
        assert row['name'] == CLASSES[k]
        assert (row['pixels'], row['kept']) == (
            mine.sum(),
            (mine & kept).sum(),
        )
        assert row['share'] == pytest.approx(share, abs=1e-7)
        assert row['prior'] == pytest.approx(true, abs=1e-7)
        assert row['ratio'] == pytest.approx(share / true, abs=1e-7)
        middle = np.minimum(all_values[mine] + 0.5, 255) / 255
        assert row['mean_confidence'] == pytest.approx(middle.mean(), abs=1e-7)
        bars, _ = np.histogram(
            all_values[mine], np.append(np.arange(15) * 17, 256)
        )
        np.testing.assert_allclose(
            row['histogram'], bars / mine.sum(), atol=1e-7
        )
    rows = class_part(0 * counts.pixels, CLASSES, 0.75, None)
    assert rows[0]['share'] is rows[0]['mean_confidence'] is None
    assert 'ratio' not in rows[0]


def test_truth(counts, truths):
    part = truth_part(truths, counts, CLASSES, THRESHOLDS)
    assert part['images'] == len(NAMES)
    assert (part['without']['count'], part['unused']) == (0, 0)
    known = all_truths != 255
    assert part['pixels'] == known.sum()
    for i, row in enumerate(part['thresholds']):
        kept = known & (all_values / 255 >= row['threshold'])
        assert row['coverage'] == pytest.approx(
            kept.sum() / known.sum(), abs=1e-7
        )
        right = (all_labels == all_truths)[kept].mean()
        assert row['precision'] == pytest.approx(right, abs=1e-7)
        ious = []
        for k, found in enumerate(part['classes']):
            true, given = kept & (all_truths == k), kept & (all_labels == k)
            both = (true & given).sum()
            ious.append(both / (true | given).sum())
            everything = (all_truths == k).sum()
            for key, expected in (
                ('precision', both / given.sum()),
                ('recall', both / everything),
                ('coverage', true.sum() / everything),
                ('iou', ious[-1]),
            ):
                assert found[key][i] == pytest.approx(expected, abs=1e-7)
            for other in range(4):
                pair = (true & (all_labels == other)).sum()
                assert part['confusion'][i][k][other] == pair
        assert row['miou'] == pytest.approx(np.mean(ious), abs=1e-7)


def test_calibration(counts):
    part = calibration_part(counts, 0.5)
    known = all_truths != 255
    right = (all_labels == all_truths)[known]
    assert sum(one['pixels'] for one in part['bins']) == known.sum()
    # The labels are drawn so.
    assert part['ece'] < 0.03
    curve = right[all_values[known] >= KEPT].mean()
    assert part['curve'][KEPT] == pytest.approx(curve, abs=1e-7)
    suggestion = part['suggestion']
    assert suggestion['threshold'] == pytest.approx(0.5, abs=0.08)
    kept = all_values[known] / 255 >= suggestion['threshold']
    assert suggestion['coverage'] == pytest.approx(kept.mean(), abs=1e-7)
    assert suggestion['precision'] == pytest.approx(
        right[kept].mean(), abs=1e-7
    )
    sky = known & (all_labels == 3)
    middle = np.minimum(all_values[sky] + 0.5, 255) / 255
    assert part['calibration'][3] == pytest.approx(
        middle.mean() - (all_truths == 3)[sky].mean(), abs=1e-7
    )


def test_changes(root, counts):
    previous = read_label_set(root / 'before')
    part = change_part(previous, counts, CLASSES, 3)
    old, trusted = stacked(BEFORE, 0), stacked(BEFORE, 1)
    changed = old != all_labels
    kept = (all_values >= KEPT) & (trusted >= KEPT)
    assert part['changed'] == pytest.approx(changed.mean(), abs=1e-7)
    assert part['kept'] == kept.sum()
    assert part['kept_changed'] == pytest.approx(
        changed[kept].mean(), abs=1e-7
    )
    for k, row in enumerate(part['classes']):
        assert row['changed'] == pytest.approx(
            changed[old == k].mean(), abs=1e-7
        )
    first = part['turned'][0]
    before, now = (CLASSES.index(first[key]) for key in ('before', 'now'))
    assert first['pixels'] == ((old == before) & (all_labels == now)).sum()
    by_image = changed.mean((1, 2))
    assert [row['name'] for row in part['worst']] == [
        NAMES[i] for i in np.argsort(-by_image)[:3]
    ]
    assert part['worst'][0]['changed'] == pytest.approx(by_image.max())


def test_worst_images(tree, counts):
    part = worst_part(tree, counts, 0.25, 3)
    shares = (all_values >= KEPT).mean((1, 2))
    order = np.argsort(shares, kind='stable')
    assert [row['name'] for row in part['worst']] == [
        NAMES[i] for i in order[:3]
    ]
    assert part['count'] == (shares < 0.25).sum() > 0
    assert [row['name'] for row in part['low']] == [
        NAMES[i] for i in order if shares[i] < 0.25
    ]
    row = part['worst'][0]
    assert (tree.folder / row['label']).is_file()
    assert (tree.folder / row['prob']).is_file()
    assert row['coverage'] == pytest.approx(shares.min(), abs=1e-7)


def test_names_below_other_folders_match(truths):
    found = truths.match(['train/a/03', '03', 'c/03', 'b/99'])
    # '03' is in a and in b; c is another folder.
    assert found == {'train/a/03': 3}
    # One label is of one image: of that whose name is the same, if any.
    assert truths.match(['train/a/03', 'val/a/03']) == {}
    assert truths.match(['train/a/03', 'a/03']) == {'a/03': 3}


def test_labels_of_one_name_belong_to_nothing(cfg):
    twice = cfg.copy()
    part = cfg.val_dataloader.dataset
    twice.val_dataloader = dict(
        dataset=dict(type='ConcatDataset', datasets=[part, part])
    )
    truths = Truths(twice, 'config:val_dataloader', CLASSES)
    assert len(truths) == 2 * len(NAMES)
    assert truths.match(NAMES) == {}


def test_labels_that_do_not_fit(tmp_path, cfg):
    truths = {name: TRUTHS[name].copy() for name in NAMES[:4]}
    truths[NAMES[0]] = truths[NAMES[0]][:, :60]
    truths[NAMES[1]][0, 0] = 9
    write_truths(tmp_path / 'data', truths)
    # Its image is listed, but the label is cut short.
    path = tmp_path / f'data/masks/{NAMES[2]}.png'
    path.write_bytes(path.read_bytes()[:60])
    (tmp_path / 'config.py').write_text(
        config_text(val_dataloader=tmp_path / 'data')
    )
    tree = read_label_set(write_tree(tmp_path / 'out', PAIRS))
    cfg = Config.fromfile(tmp_path / 'config.py')
    found = Truths(cfg, 'config:val_dataloader', CLASSES)
    counts = count_labels(tree, THRESHOLDS, 0.75, found)
    part = truth_part(found, counts, CLASSES, THRESHOLDS)
    assert part['images'] == 1
    assert part['without']['count'] == 6
    errors = {row['name']: row['error'] for row in part['damaged']}
    assert [*errors] == NAMES[:3]
    assert '32x60; expected 32x64' in errors[NAMES[0]]
    assert '9' in errors[NAMES[1]]
    assert 'not a readable label' in errors[NAMES[2]]
    # Its pixels are still counted as auto-labels.
    assert counts.pixels.sum() == all_labels.size
    prior, failed = count_classes(found)
    assert len(failed) == 2
    expected = [truths[name] for name in (NAMES[0], NAMES[3])]
    assert prior.sum() == sum((one != 255).sum() for one in expected)


def test_other_classes_are_refused(cfg):
    with pytest.raises(ValueError, match='its 4 classes'):
        Truths(cfg, 'config:val_dataloader', ('road', 'sky'))
    with pytest.raises(ValueError, match=r'test_dataloader\.dataset is miss'):
        Truths(cfg, 'config:test_dataloader', CLASSES)
