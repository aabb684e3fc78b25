"""The report of a run: its numbers, its structure, and its errors."""

import json
import os
import re

import numpy as np
import pytest
from test_reports.html_page import Page, picture, up
from test_reports.show_dirs import (
    CLASSES,
    IGNORED,
    IMAGES,
    PALETTE,
    SCALES,
    SIZE,
    arrays,
    literal_iou,
    make_sample,
    make_samples,
    write_show_dir,
)

from hmsa_mmseg.visualization import write_run

TITLE = '<script>alert("title")</script> & co'
INFO = dict(
    config='hmsa_<tiny>.py',
    checkpoint='a&b.pth',
    scales=SCALES,
    dataset='CityscapesDataset',
    date='2024-05-06 07:08:09',
)
# Of a stock model on three of the images.
OTHER = {
    image: make_sample(seed, wrong=0.5, scales=())
    for seed, image in enumerate(IMAGES[:3])
}
RUN = make_samples()
TRUTHS = arrays(RUN, 'gt_sem_seg')


def iou_of(samples, field='pred_sem_seg', index=0):
    """IoU of the first three classes; the last one does not occur."""
    return literal_iou(
        [maps[index] for maps in arrays(samples, field)],
        [truth[0] for truth in arrays(samples, 'gt_sem_seg')],
    )[:3]


def mious(samples):
    """Mean IoU of each image, by its definition."""
    return {k: np.mean(iou_of({k: one})) for k, one in samples.items()}


def written(values):
    """Numbers as the page shows them."""
    return [f'{value:.1f}' for value in values]


def gain(here, there):
    return f'{round(here - there, 1) + 0.0:+.1f}'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('runs')
    write_show_dir(root / 'run', RUN, INFO)
    write_show_dir(root / 'stock', OTHER)
    # One with IoU of all classes, and one as a training writes.
    iou = dict(zip(CLASSES, [10.0, 20.0, 60.0, None]))
    (root / 'full.json').write_text(json.dumps(dict(mIoU=30.0, IoU=iou)))
    (root / 'scalars.json').write_text(
        '{"loss": 1.0, "step": 1}\n{"mIoU": 5.0, "step": 2}\n'
        '{"mIoU": 44.25, "mAcc": 55.5, "aAcc": 66.75, "step": 4}\n'
        '{"loss": 0.5, "step": 5}\n'
    )
    return root


@pytest.fixture(scope='module')
def text(tool, folders):
    out = folders / 'made' / 'page.html'
    args = [
        *(str(folders / 'run'), '-o', str(out), '--title', TITLE),
        *('--compare', f'stock & co={folders / "stock"}', '--compare'),
        f'full={folders / "full.json"}',
        f'mean={folders / "scalars.json"}',
        *('--max-images', '3', '--width', '32'),
    ]
    assert tool.main(args) == 0
    return out.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def page(text):
    return Page(text)


@pytest.fixture
def report(tool, tmp_path, capsys):
    """Return a function that writes a page, and gives it and what is said."""

    def report(*args, code=0):
        out = tmp_path / 'page.html'
        out.unlink(missing_ok=True)
        assert tool.main([*map(str, args), '--out', str(out)]) == code
        captured = capsys.readouterr()
        if code:
            assert captured.err.endswith(f'{out} was not written\n')
            assert not out.exists()
            return captured.err
        return Page(out.read_text(encoding='utf-8')), captured

    return report


def test_the_page_is_whole_and_named_for_those_who_do_not_see(text, page):
    bare = re.sub(r'data:image/webp;base64,[A-Za-z0-9+/=]*', '', text)
    assert not re.search(r'url\(|@import|https?:|fetch\(|import\(', bare)
    (policy,) = page.find('meta', **{'http-equiv': 'Content-Security-Policy'})
    assert policy['attrs']['content'].startswith("default-src 'none';")
    ids = page.values('id')
    assert len(ids) == len(set(ids)) > 10
    for name in ('for', 'aria-labelledby'):
        assert {*page.values(name)} <= {*ids}
    for link in (*page.values('src'), *page.values('href')):
        assert link.startswith('data:image/webp;') or link[1:] in ids
    for entry in page.tags:
        attrs = entry['attrs']
        assert not any(name.startswith('on') for name in attrs)
        if attrs.get('role') == 'img':
            assert attrs['aria-label']
        if entry['tag'] == 'img':
            assert attrs['alt'].endswith(tuple(IMAGES))
        if entry['tag'] == 'th':
            assert attrs['scope'] in ('row', 'col')
        if entry['tag'] == 'table':
            assert page.find('caption', entry)
        if entry['tag'] in ('select', 'input'):
            assert (
                'aria-label' in attrs
                or any(parent['tag'] == 'label' for parent in up(entry))
                or page.find('label', **{'for': attrs.get('id', 'none')})
            ), attrs


def test_foreign_names_are_text(text, page):
    assert TITLE not in text
    assert page.find('h1')[0]['text'] == page.find('title')[0]['text'] == TITLE
    assert not page.find('b', page.find('table', id='class-iou')[0])
    # Two of our own, and one with the pictures of each card.
    assert len(page.find('script')) == 1 + 3
    facts = [entry['text'] for entry in page.find('dd')]
    assert facts[:3] == [INFO['config'], INFO['checkpoint'], INFO['dataset']]


def test_the_worst_images_have_all_their_pictures(page):
    miou = mious(RUN)
    worst = sorted(IMAGES, key=miou.get)
    cards = page.find('article')
    assert [card['attrs']['data-name'] for card in cards] == worst[:3]
    for card in cards:
        name = card['attrs']['data-name']
        shown = float(card['attrs']['data-miou'])
        assert shown == pytest.approx(miou[name], abs=1e-4)
        under, over = page.find('img', card)
        (script,) = page.find('script', card)
        pictures = json.loads(script['text'])
        for image, key in ((under, 'input'), (over, 'overlay')):
            assert image['attrs']['data-key'] == key
            pictures[key] = image['attrs']['src']
        assert {'ground_truth', 'error', 'attn_1', 'weight_2'} < {*pictures}
        assert ('other_0' in pictures) == (name in OTHER)
        for tag, attribute in (('button', 'data-key'), ('option', 'value')):
            found = page.find(tag, card)
            assert {one['attrs'][attribute] for one in found} == {*pictures}
        for uri in pictures.values():
            assert picture(uri).size == (32, 32 * SIZE[0] // SIZE[1])
        # Those of classes keep their colours.
        for key, field, index in (
            ('prediction', 'pred_sem_seg', 0),
            ('scale_2', 'scale_sem_seg', 2),
        ):
            classes = getattr(RUN[name], field).data.numpy()[index]
            # Half the width: Pillow's nearest takes every other pixel.
            expected = np.array(PALETTE)[classes[1::2, 1::2]]
            found = np.array(picture(pictures[key]))
            np.testing.assert_array_equal(found, expected)


def test_iou_by_class_and_against_other_runs(page):
    # The other run has three of the four images.
    same = iou_of({image: RUN[image] for image in IMAGES[:3]})
    here, there, full = iou_of(RUN), iou_of(OTHER), [10.0, 20.0, 60.0]
    truths = np.ravel(TRUTHS)
    pixels = np.bincount(truths[truths != IGNORED], minlength=4)
    rows = page.table('class-iou')
    assert [*rows] == ['mean', *CLASSES]
    expected = {
        name: [written([100 * pixels[k] / pixels.sum()])[0], *values]
        for k, (name, *values) in enumerate(
            zip(CLASSES, here, same, there, full)
        )
    }
    means = [np.mean(one) for one in (here, same, there, full)]
    for name, (share, *values) in {'mean': ['', *means], **expected}.items():
        one, mine, other, of_file = values
        assert rows[name] == [
            *(share, *written([one, mine, other]), gain(mine, other)),
            *(*written([of_file]), gain(one, of_file)),
        ]
    assert rows['sky'] == ['0.0', *['\N{EN DASH}'] * 6]
    # Of a training the last validation counts: its mAcc.
    assert '55.5' in page.find('body')[0]['text']
    (note,) = (e for e in page.tags if e['attrs'].get('role') == 'note')
    lines = [line['text'] for line in page.find('li', note)]
    assert lines[0].startswith('Not the same images: this run has 4, stock &')
    for line, file in zip(lines[1:], ('full.json', 'scalars.json')):
        assert f'{file} does not tell its images' in line


def test_iou_of_each_scale_alone(page):
    alone = [iou_of(RUN, 'scale_sem_seg', s) for s in range(3)]
    table = np.array([*alone, iou_of(RUN)])
    rows = page.table('scale-iou')
    for k, name in enumerate(CLASSES[:3]):
        best = table[:3, k].max()
        cells = [*written(table[:, k]), gain(table[3, k], best)]
        assert rows[name] == cells
    assert rows['mean'][:4] == written(table.mean(axis=1))
    assert rows['sky'] == ['\N{EN DASH}'] * 5


@pytest.mark.parametrize(
    ('by', 'field'),
    [('predicted', 'pred_sem_seg'), ('labelled', 'gt_sem_seg')],
)
def test_shares_of_the_scales(page, by, field):
    classes = np.concatenate([a[0].ravel() for a in arrays(RUN, field)])
    weights = np.concatenate(
        [a.reshape(3, -1) for a in arrays(RUN, 'scale_weights')], axis=1
    )
    wins = weights.argmax(0)
    rows = page.table(f'shares-{by}')
    expected, mean_scale = {}, {}
    for k, name in enumerate(['all', *CLASSES[:3]], -1):
        where = classes == k if k >= 0 else classes != IGNORED
        parts = weights[:, where].mean(1)
        winners = [np.mean(wins[where] == s) for s in range(3)]
        expected[name] = [
            f'{where.sum():,}',
            *written([*100 * parts, *100 * np.array(winners)]),
        ]
        mean_scale[name] = np.prod(np.power(SCALES, parts))
    assert rows == expected
    order = sorted(CLASSES[:3], key=mean_scale.get, reverse=True)
    assert [*rows] == ['all', *order]


def test_all_images_are_in_the_table(page):
    miou, there = mious(RUN), mious(OTHER)
    rows = page.table('images-table')
    assert [*rows] == sorted(IMAGES, key=miou.get)
    for image, cells in rows.items():
        one = RUN[image]
        true = one.gt_sem_seg.data.numpy()
        wrong = one.pred_sem_seg.data.numpy() != true
        error = 100 * wrong[true != IGNORED].mean()
        confidence = 100 * one.confidence.data.numpy().mean()
        gained = '\N{EN DASH}'
        if image in there:
            gained = gain(miou[image], there[image])
        assert cells == [*written([miou[image], error, confidence]), gained]
    links = page.find('a', page.find('table', id='images-table')[0])
    assert [entry['text'] for entry in links] == [*rows][:3]
    assert len(page.find('circle')) == len(IMAGES)


def test_a_run_of_more_images_is_compared_on_those_of_this(report, folders):
    run, stock = folders / 'run', folders / 'stock'
    page, said = report(stock, '--compare', f'all={run}', '--max-images', 0)
    assert 'warning: Not the same images: this run has 3, all 4.' in said.err
    cells = page.table('class-iou')['mean']
    assert cells[1] == cells[2]
    swapped, _ = report(run, '--compare', f'few={stock}', '--max-images', 0)
    assert cells[3] == swapped.table('class-iou')['mean'][2]
    _, said = report(run, '--compare', f'same={run}', '--max-images', 0)
    assert 'warning' not in said.err
    # A stock model has no scales.
    assert not page.find('section', id='scales')
    assert not page.find('section', id='confidence')


def test_limits(report, folders):
    page, said = report(folders / 'run', '--max-images', 0)
    assert 'MB, 0 of 4 images with pictures, limited by 0 ' in said.out
    assert not page.find('img')
    everything, said = report(folders / 'run')
    assert 'MB, 4 of 4 images with pictures\n' in said.out
    sizes = [
        sum(len(uri) for uri in json.loads(script['text']).values())
        + sum(len(img['attrs']['src']) for img in everything.find('img', card))
        for card in everything.find('article')
        for script in everything.find('script', card)
    ]
    room = (sum(sizes[:2]) + 0.5 * sizes[2]) / 1e6
    page, said = report(folders / 'run', '--max-mb', room)
    assert len(page.find('article')) == 2
    assert '2 of 4 images with pictures, limited by 0.' in said.out


def test_a_run_without_ground_truth(report, tmp_path):
    """And with a name that is no UTF-8."""
    samples = make_samples(labelled=False)
    samples[os.fsdecode(b'stra\xdfe.png')] = make_sample(9, labelled=False)
    write_show_dir(tmp_path, samples)
    page, said = report(tmp_path)
    assert 'No image has a ground truth' in said.err
    rows = page.table('images-table')
    means = {
        os.fsencode(k).decode(errors='replace'): s.confidence.data.mean()
        for k, s in samples.items()
    }
    assert [*rows] == sorted(means, key=means.get)
    assert len(page.find('article')) == len(samples)
    assert page.find('table', id='shares-predicted')
    for name in ('class-iou', 'scale-iou', 'shares-labelled'):
        assert not page.find('table', id=name)
    said = report(tmp_path, '--compare', f'a={tmp_path}', code=1)
    assert 'no image has a ground truth' in said


def test_what_limits_a_run_is_said(report, tmp_path):
    miou = round(np.mean(iou_of(RUN)), 2)
    write_show_dir(tmp_path, RUN)
    for info, notes in (
        (dict(mode='test'), ['The test has not ended']),
        (dict(mode='test', metrics=dict(mIoU=miou)), []),
        (dict(metrics=dict(mIoU=miou + 0.2)), ['mmseg reported mIoU']),
        (dict(num_images=5), ['has drawn 5 images, but there are records']),
    ):
        write_run(tmp_path, {**INFO, **info})
        page, said = report(tmp_path, '--max-images', 0)
        assert said.err.count('warning:') == len(notes)
        assert all(note in said.err for note in notes)
        assert page.find('h1')[0]['text'] == 'hmsa_<tiny>'


@pytest.mark.fault(
    'a picture of a run is missing or damaged: report',
    'an error with its path; the last page stays',
)
def test_a_missing_or_damaged_picture(report, tool, tmp_path):
    write_show_dir(tmp_path, {IMAGES[0]: make_sample(0)})
    assert tool.main([str(tmp_path)]) == 0
    (lost,) = tmp_path.rglob('confidence.*')
    lost.write_bytes(b'\x89PNG but no more')
    assert f'{lost}: no picture' in report(tmp_path, code=1)
    lost.unlink()
    assert f'{lost}: the picture is missing' in report(tmp_path, code=1)
    # The page that stands is kept.
    before = (tmp_path / 'report.html').read_bytes()
    assert tool.main([str(tmp_path)]) == 1
    assert (tmp_path / 'report.html').read_bytes() == before
    report(tmp_path, '--max-images', 0)


def test_a_plain_average_prefers_no_scale(report, tmp_path):
    sample = make_sample(0)
    sample.scale_weights.data[:] = 1 / 3
    write_show_dir(tmp_path, {IMAGES[0]: sample})
    page, _ = report(tmp_path)
    for row in page.table('shares-predicted').values():
        assert row[1:] == ['33.3'] * 3 + ['0.0'] * 3
    (legend,) = page.find('ul', **{'aria-label': 'Other colours'})
    assert 'several scales win' in legend['text']


def test_comparisons_that_make_no_sense(report, folders, tmp_path, capsys):
    run = folders / 'run'
    (tmp_path / 'empty/scale_maps').mkdir(parents=True)
    assert 'no records of images in' in report(tmp_path / 'empty', code=1)
    classes = ('road', 'wall', 'car', 'sky')
    write_show_dir(tmp_path / 'a', {'1.png': make_sample(0)}, classes=classes)
    write_show_dir(tmp_path / 'b', {'c/1.png': make_sample(0)})
    file = tmp_path / 'metrics.json'
    for name, content, message in (
        ('name', None, '--compare name: expected NAME=DIR'),
        ('a=nowhere', None, 'a=nowhere: no such file or folder'),
        (f'a={tmp_path / "a"}', None, 'its classes are road, wall, car, sky'),
        (f'a={tmp_path / "b"}', None, 'none of its 1 images (c/1.png, ...) i'),
        (f'a={file}', '{"mIoU": 0.5', f'{file}: Expecting'),
        (f'a={file}', '{"loss": 0.5}', f'{file}: no "mIoU"; expected JSON'),
        (f'a={file}', '{"mIoU": 101}', 'mIoU is 101; expected a number from'),
        (
            *(f'a={file}', '{"mIoU": 5, "IoU": {"road": 5}}'),
            '"IoU" is {\'road\': 5}; expected',
        ),
    ):
        file.write_text(content or '')
        assert message in report(run, '--compare', name, code=1)
    for folder, options, message in (
        (run, ['--compare', 'a=x', 'a=y'], "two runs have the name 'a'"),
        (run, ['--width', 5], '--width: expected 16 or more, got 5'),
        (run, ['--prior', 'config:a'], f'--prior: {run} is a folder of a tes'),
        (tmp_path, [], 'expected scale_maps in it, which hmsa test'),
    ):
        with pytest.raises(SystemExit):
            report(folder, *options)
        assert message in capsys.readouterr().err
