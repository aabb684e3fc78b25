"""tools/report.py on labels, from the command line to its two files."""

import json
import os
import signal
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from PIL import Image
from test_reports.html_page import Page
from test_reports.label_sets import (
    CLASSES,
    config_text,
    fake_pairs,
    make_meta,
    write_tree,
    write_truths,
)

from hmsa_mmseg.autolabel.meta import link_to, write_lines
from hmsa_mmseg.autolabel.teacher_record import write_seen
from hmsa_mmseg.datasets.autolabel_files import read_lines
from hmsa_mmseg.reports import (
    ReportOptions,
    make_report,
)
from hmsa_mmseg.reports.label_set import LabelSet

NAMES = [f'city/{i:02}' for i in range(6)]
CHECKED = [f'val/{i:02}' for i in range(4)]


def read(out):
    """Return the content of both files, the page checked, and its text."""
    data = json.loads((out / 'report.json').read_text())
    page = Page((out / 'report.html').read_text())
    ids = page.values('id')
    assert len(ids) == len({*ids})
    for link in page.values('href'):
        # To a part of the page, or to a file of the tree.
        path = os.fsdecode(unquote_to_bytes(link))
        assert link[1:] in ids or (out / path).is_file()
    assert all(uri.startswith('data:image/') for uri in page.values('src'))
    (body,) = page.find('body')
    return data, page, ' '.join(body['text'].split())


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Two rounds, the second with all that a report can compare with."""
    root = tmp_path_factory.mktemp('report')
    pairs, coarse = fake_pairs(NAMES)
    write_tree(root / 'round_0', fake_pairs(NAMES, seed=1)[0])
    meta = make_meta()
    meta.update(round=1, previous=link_to(root / 'round_0', root / 'round_1'))
    failures = [
        dict(name='city/bad', image='x', reason='grey', error='<b> & co')
    ]
    write_truths(root / 'coarse', coarse)
    out = write_tree(
        root / 'round_1', pairs, root / 'coarse/images', meta, failures
    )
    checked, truths = fake_pairs(CHECKED, seed=2)
    write_truths(root / 'val', truths)
    write_tree(out / 'check', checked, root / 'val/images', meta)
    seen = root / 'val/images/val/01.png'
    write_seen(out / 'teacher_images.txt', [(seen.stat().st_size, '01.png')])
    (out / 'city/03_prob.png').unlink()
    (root / 'config.py').write_text(
        config_text(
            val_dataloader=root / 'val',
            coarse_dataloader=root / 'coarse',
            train_dataloader=root / 'val',
        )
    )
    return root


@pytest.fixture(scope='module')
def report(root, tool):
    out = root / 'round_1'
    code = tool.main(
        [
            *(str(out), '--config', str(root / 'config.py')),
            *('--check', 'config:val_dataloader'),
            *('--coarse', 'config:coarse_dataloader'),
            *('--prior', 'config:train_dataloader'),
            *('--threshold', '0.25', '--worst', '2', '--workers', '0'),
        ]
    )
    assert code == 0
    return read(out)


def test_miou_is_that_of_mmseg(report, root):
    data, _, _ = report
    table = np.full(256, 255, np.uint8)
    table[make_meta()['settings']['label_ids']] = range(len(CLASSES))
    areas = torch.zeros(4, len(CLASSES))
    for name in CHECKED:
        label = np.array(Image.open(root / f'round_1/check/{name}.png'))
        truth = np.array(Image.open(root / f'val/masks/{name}.png'))
        counted = IoUMetric.intersect_and_union(
            torch.from_numpy(table[label]), torch.from_numpy(truth), 4, 255
        )
        areas += torch.stack(counted)
    intersect, union, _, labelled = areas.double().numpy()
    found = data['check']['thresholds'][0]
    assert found['threshold'] == 0
    assert found['miou'] == pytest.approx((intersect / union).mean())
    assert found['precision'] == pytest.approx(
        intersect.sum() / labelled.sum()
    )


def test_what_is_wrong_is_said(report):
    data, _, text = report
    notes = ' '.join(data['notes'])
    for expected in (
        'city/03_prob.png: No such file',
        '1 image could not be labelled: 1 grey',
        'The teacher was trained on 1 of the 4 images',
        'The teacher is checked on 4 images only',
    ):
        assert expected in notes
        assert expected in text
    assert '<b> & co' in text
    assert data['images']['damaged'][0]['name'] == 'city/03'
    assert data['images']['counted'] == len(NAMES) - 1
    assert data['check']['seen']['seen'] == 1


def test_numbers_of_the_summary(report):
    data, page, text = report
    # Image, label and confidence of each.
    assert len(data['worst']['worst']) == 2
    assert len(page.values('src')) == 6
    sections = {'threshold', 'classes', 'check', 'coarse', 'changes', 'worst'}
    assert sections <= {*page.values('id')}
    at = data['coverage']['thresholds'].index(0.25)
    kept = data['coverage']['overall'][at]
    assert f'{100 * kept:.1f} % of the pixels kept at 0.25' in text
    suggestion = data['check']['suggestion']
    assert f'Suggested: {suggestion["threshold"]}. It keeps' in text
    curve = data['coverage']['curve']
    assert suggestion['coverage_of_all'] in curve
    assert data['changes']['images'] == len(NAMES) - 1
    assert data['changes']['folder'] == 'round_0'
    assert data['coarse']['images'] == len(NAMES) - 1
    assert data['prior']['labels'] == len(CHECKED)


def test_without_anything_to_compare_with(tmp_path, tool, root):
    pairs, _ = fake_pairs(NAMES[:2])
    out = write_tree(tmp_path / 'plain', pairs)
    assert tool.main([str(out), '--workers', '0']) == 0
    data, page, text = read(out)
    assert data['check'] is data['coarse'] is data['changes'] is None
    assert 'No threshold is suggested: that takes true labels' in text
    assert 'check' not in page.values('id')
    # The images are not there.
    assert text.count('not found') == 2
    assert str(root) not in text


def test_a_check_without_confidence(tmp_path, tool):
    pairs, truths = fake_pairs(NAMES[:2])
    meta = make_meta(settings=dict(prob='none'))
    out = write_tree(tmp_path / 'out', pairs, meta=meta)
    write_tree(out / 'check', pairs, meta=meta)
    write_truths(tmp_path / 'val', truths)
    config = tmp_path / 'config.py'
    config.write_text(config_text(val_dataloader=tmp_path / 'val'))
    options = ['--config', str(config), '--check', 'config:val_dataloader']
    assert tool.main([str(out), '--workers', '0', *options]) == 0
    data, _, text = read(out)
    assert data['check']['thresholds'][0]['precision'] > 0
    for key in ('suggestion', 'ece', 'excess'):
        assert data['check'][key] is None
    assert {*data['check']['calibration']} == {None}
    assert {row['mean_confidence'] for row in data['class_rows']} == {None}
    assert 'suggested: the labels have no confidence' in text
    assert 'Can confidence be trusted' not in text


def test_images_that_cannot_be_drawn(tmp_path, tool, monkeypatch):
    pairs, _ = fake_pairs(NAMES[:1])
    out = write_tree(tmp_path / 'out', pairs)
    (path,) = read_lines(out / 'manifest.jsonl')
    path['image'] = str(tmp_path / 'x.jpg')
    write_lines(out / 'manifest.jsonl', [path])
    Image.new('RGB', (5000, 3)).save(path['image'])
    assert tool.main([str(out), '--workers', '0']) == 0
    _, page, _ = read(out)
    assert len(page.values('src')) == 3
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 5000)
    assert tool.main([str(out), '--workers', '0']) == 0
    _, page, text = read(out)
    assert len(page.values('src')) == 2
    assert text.count('not found') == 1


def test_names_that_are_not_utf8(tmp_path, tool):
    name = os.fsdecode(b'stra\xdfe')
    out = write_tree(tmp_path / 'out', fake_pairs([name])[0])
    assert tool.main([str(out), '--workers', '0']) == 0
    data, page, text = read(out)
    assert data['worst']['worst'][0]['name'] == name
    assert 'stra\ufffde' in text
    assert 'stra%DFe.png' in page.values('href')


def test_no_image_at_all(tmp_path, tool):
    out = write_tree(tmp_path / 'out', {})
    assert tool.main([str(out), '--workers', '0']) == 0
    data, _, _ = read(out)
    assert data['coverage']['overall'] == [None] * 8
    assert data['never_predicted'] == list(CLASSES)


def test_another_round_before(tmp_path, tool):
    pairs, _ = fake_pairs(NAMES[:2])
    before = write_tree(tmp_path / 'before', fake_pairs(NAMES[:1], 3)[0])
    out = write_tree(tmp_path / 'out', pairs)
    arguments = [str(out), '--workers', '0', '--previous', str(before)]
    assert tool.main(arguments) == 0
    data, _, _ = read(out)
    assert data['changes']['images'] == 1
    assert 'it had no label' in ' '.join(data['notes'])
    # Named in the metadata, but gone, or no more what it was.
    meta = make_meta()
    meta['previous'] = link_to(before, tmp_path / 'out')
    write_tree(out, pairs, meta=meta)
    write_tree(before, {}, meta=make_meta(settings=dict(flip=True)))
    assert tool.main(arguments[:3]) == 0
    assert 'not the labels that the round before had' in str(read(out)[0])
    (before / 'autolabel_meta.json').unlink()
    assert tool.main(arguments[:3]) == 0
    assert 'is not compared with' in str(read(out)[0]['notes'])


def test_a_killed_process_is_no_report(tmp_path, tool, capsys, monkeypatch):
    out = write_tree(tmp_path / 'out', fake_pairs(NAMES[:1])[0])
    here = os.getpid()

    def killed(tree, line):
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(LabelSet, 'read', killed)
    assert tool.main([str(out), '--workers', '1']) == 1
    assert 'DataLoader worker' in capsys.readouterr().err
    assert not (out / 'report.html').exists()
    assert not (out / 'report.json').exists()


def test_a_check_that_is_not_asked_for_is_named(root, tool, tmp_path):
    out = write_tree(tmp_path / 'out', fake_pairs(NAMES[:1])[0])
    write_tree(out / 'check', fake_pairs(NAMES[:1])[0])
    assert tool.main([str(out), '--workers', '0']) == 0
    data, _, text = read(out)
    assert data['images']['unlisted']['count'] == 0
    assert 'check holds labels of a split' in text


def test_wrong_numbers_are_found_before_the_reading(tmp_path, monkeypatch):
    out = write_tree(tmp_path / 'out', fake_pairs(NAMES[:1])[0])
    monkeypatch.setattr(LabelSet, 'read', None)
    for options, message in (
        (dict(target_precision=0), 'target precision 0'),
        (dict(threshold=2), 'threshold=2'),
        (dict(prior='config:a'), 'config:a: which config'),
    ):
        with pytest.raises(ValueError, match=message):
            make_report(out, ReportOptions(**options))


def test_damaged_metadata_leave_the_last_report(tmp_path, tool, capsys):
    pairs, _ = fake_pairs(NAMES[:1])
    out = write_tree(tmp_path / 'out', pairs)
    (out / 'report.html').write_text('old')
    (out / 'autolabel_meta.json').write_text('{')
    assert tool.main([str(out)]) == 1
    assert 'is damaged' in capsys.readouterr().err
    assert (out / 'report.html').read_text() == 'old'


def test_a_check_without_its_labels(root, tmp_path, tool, capsys):
    out = write_tree(tmp_path / 'out', fake_pairs(NAMES[:1])[0])
    arguments = [str(out), '--check', 'config:val_dataloader']
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert 'expected --config beside it' in capsys.readouterr().err
    assert tool.main([*arguments, '--config', str(root / 'config.py')]) == 1
    assert 'check/autolabel_meta.json is missing' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([str(out), '--check', 'val_dataloader'])
    assert 'expected config:<loader>' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([str(out), '--threshold', '1.5'])
    assert '--threshold: expected 0 to 1' in capsys.readouterr().err
