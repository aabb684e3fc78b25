"""tools/report.py on labels, from the command line to its two files."""

import json
import os
import signal
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image
from test_reports.html_page import Page, picture
from test_reports.label_sets import (
    CLASSES,
    fake_pairs,
    make_meta,
    write_config,
    write_tree,
    write_truths,
)

from hmsa_mmseg.autolabel.meta import link_to, write_lines
from hmsa_mmseg.autolabel.teacher_record import write_seen
from hmsa_mmseg.datasets.autolabel_files import read_lines
from hmsa_mmseg.reports import ReportOptions, make_report
from hmsa_mmseg.reports.label_page import DARK
from hmsa_mmseg.reports.label_set import LabelSet

NAMES = [f'city/{i:02}' for i in range(6)]
CHECKED = [f'val/{i:02}' for i in range(4)]
CHECK = ['--check', 'config:val_dataloader']


@pytest.fixture
def one(tmp_path):
    """A folder with the label of one image."""
    return write_tree(tmp_path / 'out', fake_pairs(NAMES[:1])[0])


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


@pytest.fixture
def report(tool):
    """Return a function that writes a report, and reads it."""

    def report(out, *args):
        args = [str(out), '--workers', '0', *map(str, args)]
        assert tool.main(args) == 0
        return read(out)

    return report


def test_all_that_can_be_compared(tmp_path, report):
    pairs, coarse = fake_pairs(NAMES)
    before, out = tmp_path / 'round_0', tmp_path / 'round_1'
    write_tree(before, fake_pairs(NAMES, seed=1)[0])
    meta = make_meta()
    meta.update(round=1, previous=link_to(before, out))
    error = dict(name='city/bad', image='x', reason='grey', error='<b> & co')
    write_truths(tmp_path / 'coarse', coarse)
    write_tree(out, pairs, tmp_path / 'coarse/images', meta, [error])
    checked, truths = fake_pairs(CHECKED, seed=2)
    val = tmp_path / 'val'
    write_truths(val, truths)
    write_tree(out / 'check', checked, val / 'images', meta)
    seen = val / 'images/val/01.png'
    write_seen(out / 'teacher_images.txt', [(seen.stat().st_size, '01.png')])
    (out / 'city/03_prob.png').unlink()
    config = write_config(
        tmp_path / 'config.py',
        val_dataloader=val,
        coarse_dataloader=tmp_path / 'coarse',
        train_dataloader=val,
    )
    data, page, text = report(
        *(out, '--config', config, *CHECK),
        *('--coarse', 'config:coarse_dataloader'),
        *('--prior', 'config:train_dataloader'),
        *('--threshold', '0.25', '--worst', '2'),
    )
    # What is wrong is said.
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
    assert data['check']['seen']['seen'] == 1
    # Image, label and confidence of each.
    assert len(data['worst']['worst']) == 2
    sources = page.values('src')
    assert len(sources) == 6
    dark = (np.array(picture(sources[1])) == DARK).all(axis=-1).mean()
    kept = data['worst']['worst'][0]['coverage']
    assert dark == pytest.approx(1 - kept, abs=1e-6)
    # The curve of what is kept begins at the top.
    (curve,) = page.find('path', **{'class': 'all'})
    assert curve['attrs']['d'].startswith('M44.0 12.0L')
    sections = {'threshold', 'classes', 'check', 'coarse', 'changes', 'worst'}
    assert sections <= {*page.values('id')}
    at = data['coverage']['thresholds'].index(0.25)
    kept = data['coverage']['overall'][at]
    assert f'{100 * kept:.1f} % of the pixels kept at 0.25' in text
    threshold = data['check']['suggestion']['threshold']
    assert f'Suggested: {threshold}. It keeps' in text
    assert data['changes']['folder'] == 'round_0'
    for key in ('changes', 'coarse'):
        assert data[key]['images'] == len(NAMES) - 1
    assert data['prior']['labels'] == len(CHECKED)


def test_without_anything_to_compare_with(tmp_path, report):
    """With a name that is no UTF-8, and without the images."""
    name = os.fsdecode(b'stra\xdfe')
    out = write_tree(tmp_path / 'plain', fake_pairs(['a', name])[0])
    data, page, text = report(out)
    assert data['check'] is data['coarse'] is data['changes'] is None
    assert 'No threshold is suggested: that takes true labels' in text
    assert 'check' not in page.values('id')
    assert text.count('not found') == 2
    assert name in [row['name'] for row in data['worst']['worst']]
    assert 'stra\ufffde' in text
    assert 'stra%DFe.png' in page.values('href')
    # A split that is not asked for is named, and none of its labels listed.
    write_tree(out / 'check', fake_pairs(NAMES[:1])[0])
    data, _, text = report(out)
    assert data['images']['unlisted']['count'] == 0
    assert 'check holds labels of a split' in text
    data, _, _ = report(write_tree(tmp_path / 'empty', {}))
    assert data['coverage']['overall'] == [None] * 8
    assert data['never_predicted'] == list(CLASSES)


def test_a_check_without_confidence(tmp_path, report):
    pairs, truths = fake_pairs(NAMES[:2])
    meta = make_meta(prob='none')
    out = write_tree(tmp_path / 'out', pairs, meta=meta)
    write_tree(out / 'check', pairs, meta=meta)
    write_truths(tmp_path / 'val', truths)
    config = write_config(
        tmp_path / 'config.py', val_dataloader=tmp_path / 'val'
    )
    data, _, text = report(out, '--config', config, *CHECK)
    assert data['check']['thresholds'][0]['precision'] > 0
    for key in ('suggestion', 'ece', 'excess'):
        assert data['check'][key] is None
    assert {*data['check']['calibration']} == {None}
    assert {row['mean_confidence'] for row in data['class_rows']} == {None}
    assert 'suggested: the labels have no confidence' in text
    assert 'Can confidence be trusted' not in text


def test_images_that_cannot_be_drawn(one, report, monkeypatch):
    (line,) = read_lines(one / 'manifest.jsonl')
    line['image'] = str(one.parent / 'x.jpg')
    write_lines(one / 'manifest.jsonl', [line])
    Image.new('RGB', (5000, 3)).save(line['image'])
    _, page, _ = report(one)
    assert len(page.values('src')) == 3
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 5000)
    _, page, text = report(one)
    assert len(page.values('src')) == 2
    assert text.count('not found') == 1


def test_another_round_before(tmp_path, report):
    pairs, _ = fake_pairs(NAMES[:2])
    before = write_tree(tmp_path / 'before', fake_pairs(NAMES[:1], 3)[0])
    out = write_tree(tmp_path / 'out', pairs)
    data, _, _ = report(out, '--previous', before)
    assert data['changes']['images'] == 1
    assert 'it had no label' in ' '.join(data['notes'])
    # Named in the metadata, but gone, or no more what it was.
    meta = make_meta()
    meta['previous'] = link_to(before, out)
    write_tree(out, pairs, meta=meta)
    write_tree(before, {}, meta=make_meta(flip=True))
    assert 'not the labels that the round before had' in report(out)[2]
    (before / 'autolabel_meta.json').unlink()
    assert 'is not compared with' in report(out)[2]


@pytest.mark.fault(
    'a process of the report is killed',
    'exit status 1; the last report stays',
)
def test_a_killed_process_is_no_report(one, tool, capsys, monkeypatch):
    here = os.getpid()
    (one / 'report.html').write_text('old')

    def killed(tree, line):
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(LabelSet, 'read', killed)
    assert tool.main([str(one), '--workers', '1']) == 1
    assert 'DataLoader worker' in capsys.readouterr().err
    (one / 'autolabel_meta.json').write_text('{')
    assert tool.main([str(one)]) == 1
    assert 'is damaged' in capsys.readouterr().err
    # The last report stays.
    assert (one / 'report.html').read_text() == 'old'
    assert not (one / 'report.json').exists()


def test_options_that_make_no_sense(one, tool, capsys, monkeypatch):
    write_truths(one / 'val', fake_pairs(NAMES[:1])[1])
    config = write_config(one / 'config.py', val_dataloader=one / 'val')
    # Nothing is read before.
    monkeypatch.setattr(LabelSet, 'read', None)
    for args, message in (
        (CHECK, 'expected --config beside it'),
        (['--check', 'val_dataloader'], 'expected config:<loader>'),
        (['--threshold', '1.5'], '--threshold: expected 0 to 1'),
        (['--title', 'a'], f'--title: {one} is a folder of auto-labels'),
        # A check without auto-labels.
        ([*CHECK, '--config', config], 'check/autolabel_meta.json is missing'),
    ):
        with suppress(SystemExit):
            assert tool.main([str(one), *args]) == 1
        assert message in capsys.readouterr().err
    for options, message in (
        (dict(target_precision=0), 'target precision 0'),
        (dict(threshold=2), 'threshold=2'),
        (dict(prior='config:a'), 'config:a: which config'),
    ):
        with pytest.raises(ValueError, match=message):
            make_report(one, ReportOptions(**options))
