"""Folders of auto-labels, read back: what is damaged is named."""

import numpy as np
import pytest
from PIL import Image
from test_reports.label_sets import fake_pairs, make_meta, write_tree

from hmsa_mmseg.autolabel.meta import write_lines, write_meta
from hmsa_mmseg.autolabel.statistics import THRESHOLDS
from hmsa_mmseg.datasets.autolabel_files import read_lines
from hmsa_mmseg.reports.label_counts import count_labels
from hmsa_mmseg.reports.label_set import read_label_set

NAMES = ['a/1', 'a/2', 'b/1']
PAIRS, _ = fake_pairs(NAMES)


@pytest.fixture
def folder(tmp_path):
    return write_tree(tmp_path / 'out', PAIRS)


def save(path, pixels):
    Image.fromarray(pixels).save(path)


def error_of(folder):
    """What is said of the second image, of which nothing is counted."""
    tree, done = read_label_set(folder), []
    counts = count_labels(tree, THRESHOLDS, 0.5, progress=done.append)
    assert sum(done) == len(NAMES)
    (damaged,) = (image for image in counts.images if 'error' in image)
    assert damaged['name'] == 'a/2'
    assert counts.pixels.sum() == 2 * 32 * 64
    return damaged['error']


def test_pairs_are_read_as_they_were_written(folder, tmp_path, monkeypatch):
    # Pillow has a limit for what it opens, 179 megapixels.
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 100)
    tree = read_label_set(folder)
    assert [line['name'] for line in tree.lines] == NAMES
    for line in tree.lines:
        for found, written in zip(tree.read(line), PAIRS[line['name']]):
            np.testing.assert_array_equal(found, written)
    assert (tree.failures, tree.missing, tree.unlisted()) == ([], [], [])
    meta = make_meta(layout='authors-flat', prob='none', label_ids=[*range(4)])
    flat = write_tree(tmp_path, {'deep/a_1': PAIRS['a/1']}, meta=meta)
    tree = read_label_set(flat)
    label, confidence = tree.read(tree.lines[0])
    np.testing.assert_array_equal(label, PAIRS['a/1'][0])
    assert (confidence == 255).all()
    assert (flat / 'a_1.png').is_file()
    assert tree.unlisted() == []


@pytest.mark.fault(
    'auto-labels that are damaged: report',
    'an error with the path',
)
def test_damaged_pairs(folder):
    pixels = PAIRS['a/2'][1].copy()
    pixels[3, 3] ^= 1
    save(folder / 'a/2_prob.png', pixels)
    assert 'the manifest has' in error_of(folder)
    # As if no sha256 had been written.
    path = folder / 'manifest.jsonl'
    lines = [{**line, 'label_sha256': None} for line in read_lines(path)]
    write_lines(path, lines)
    path = folder / 'a/2.png'
    content = path.read_bytes()
    for damaged in (content[:-200], b''):
        path.write_bytes(damaged)
        assert 'a/2.png: no picture' in error_of(folder)
    for pixels, message in (
        (np.zeros((32, 63), np.uint8), '32x63; expected 32x64'),
        (np.zeros((32, 64), np.uint16), 'mode I;16; expected grey'),
        (np.full((32, 64), 5, np.uint8), r'values [5] are no class'),
    ):
        save(path, pixels)
        assert message in error_of(folder)
    path.unlink()
    assert 'a/2.png: No such file' in error_of(folder)


def test_what_is_not_in_the_manifest(folder):
    save(folder / 'b/new.png', np.zeros((4, 4), np.uint8))
    save(folder / 'b/new_prob.png', np.zeros((4, 4), np.uint8))
    # A tree of its own is none of it.
    write_tree(folder / 'check', PAIRS)
    failure = dict(name='c/1', image='c/1.png', reason='grey', error='one')
    write_lines(folder / 'failures.jsonl', [failure])
    path = folder / 'images.jsonl'
    missing = dict(name='c/2', image='c/2.png')
    write_lines(path, [*read_lines(path), failure, missing])
    # Lists of several processes are merged.
    lines = read_lines(folder / 'manifest.jsonl')
    (folder / 'manifest.jsonl').unlink()
    for i in range(2):
        write_lines(folder / f'manifest.{i}-of-2.jsonl', lines[i::2])
    tree = read_label_set(folder)
    assert tree.lines == lines
    assert tree.failures == [failure]
    assert tree.missing == ['c/2']
    assert tree.unlisted() == ['b/new.png']


def test_what_is_no_folder_of_labels(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r'autolabel_meta\.json is'):
        read_label_set(tmp_path)
    (folder / 'manifest.jsonl').unlink()
    with pytest.raises(FileNotFoundError, match=r'manifest\.jsonl is missin'):
        read_label_set(folder)
    write_meta(folder, make_meta(label_ids=[1, 2]))
    with pytest.raises(ValueError, match=r'json: 2 label_ids of 4 classes'):
        read_label_set(folder)
