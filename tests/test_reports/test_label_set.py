"""Folders of auto-labels, read back: what is damaged is named."""

import numpy as np
import pytest
from PIL import Image
from test_reports.label_sets import (
    fake_pairs,
    make_meta,
    write_tree,
)

from hmsa_mmseg.autolabel.meta import write_lines, write_meta
from hmsa_mmseg.autolabel.statistics import THRESHOLDS
from hmsa_mmseg.datasets.autolabel_files import read_lines
from hmsa_mmseg.reports.label_counts import count_labels
from hmsa_mmseg.reports.label_set import (
    DamagedPairError,
    read_label_set,
)

NAMES = ['a/1', 'a/2', 'b/1']
PAIRS, _ = fake_pairs(NAMES)


@pytest.fixture
def folder(tmp_path):
    return write_tree(tmp_path / 'out', PAIRS)


def save(path, pixels):
    Image.fromarray(pixels).save(path)


def forget(folder, key):
    """Take a sha256 out of the manifest, as if a file had none."""
    path = folder / 'manifest.jsonl'
    write_lines(path, [{**line, key: None} for line in read_lines(path)])


def error_of(folder, name='a/2'):
    tree = read_label_set(folder)
    with pytest.raises(DamagedPairError) as info:
        tree.read(tree.lines[tree.names[name]])
    # It is counted as such, and nothing of it is counted.
    counts = count_labels(tree, THRESHOLDS, 0.5)
    (damaged,) = (image for image in counts.images if 'error' in image)
    assert damaged == dict(name=name, error=str(info.value))
    assert counts.pixels.sum() == 2 * 32 * 64
    return str(info.value)


def test_pairs_are_read_as_they_were_written(folder):
    tree = read_label_set(folder)
    assert [line['name'] for line in tree.lines] == NAMES
    for line in tree.lines:
        label, confidence = tree.read(line)
        np.testing.assert_array_equal(label, PAIRS[line['name']][0])
        np.testing.assert_array_equal(confidence, PAIRS[line['name']][1])
    assert (tree.failures, tree.missing, tree.unlisted()) == ([], [], [])


def test_flat_layout_and_train_ids_without_confidence(tmp_path):
    meta = make_meta(
        settings=dict(
            layout='authors-flat', prob='none', label_ids=[0, 1, 2, 3]
        )
    )
    pairs = {name.replace('/', '_'): PAIRS[name] for name in NAMES[:2]}
    pairs = {f'deep/{name}': pair for name, pair in pairs.items()}
    tree = read_label_set(write_tree(tmp_path, pairs, meta=meta))
    label, confidence = tree.read(tree.lines[0])
    np.testing.assert_array_equal(label, PAIRS['a/1'][0])
    assert (confidence == 255).all()
    assert (tmp_path / 'a_1.png').is_file()
    assert tree.unlisted() == []


def test_a_changed_file_is_found_by_its_sha256(folder):
    pixels = PAIRS['a/2'][1].copy()
    pixels[3, 3] ^= 1
    save(folder / 'a/2_prob.png', pixels)
    assert 'the manifest has' in error_of(folder)


def test_what_is_no_picture(folder):
    forget(folder, 'label_sha256')
    path = folder / 'a/2.png'
    content = path.read_bytes()
    for damaged in (content[:-200], b'', b'hello'):
        path.write_bytes(damaged)
        assert 'a/2.png: no picture' in error_of(folder)
    path.unlink()
    assert 'a/2.png: No such file' in error_of(folder)


@pytest.mark.parametrize(
    ('pixels', 'message'),
    [
        (np.zeros((32, 63), np.uint8), '32x63; expected 32x64'),
        (np.zeros((32, 64, 3), np.uint8), 'mode RGB; expected grey'),
        (np.zeros((32, 64), np.uint16), 'mode I;16; expected grey'),
        (np.full((32, 64), 5, np.uint8), r'values [5] are no class'),
    ],
    ids=['size', 'rgb', '16-bit', 'value'],
)
def test_pictures_that_are_no_label(folder, pixels, message):
    forget(folder, 'label_sha256')
    save(folder / 'a/2.png', pixels)
    assert message in error_of(folder)


def test_labels_of_many_pixels(folder, monkeypatch):
    # Pillow has a limit for what it opens, 179 megapixels.
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 100)
    tree = read_label_set(folder)
    label, _ = tree.read(tree.lines[0])
    np.testing.assert_array_equal(label, PAIRS[tree.lines[0]['name']][0])


def test_labels_beside_the_manifest_are_listed(folder):
    save(folder / 'b/new.png', np.zeros((4, 4), np.uint8))
    save(folder / 'b/new_prob.png', np.zeros((4, 4), np.uint8))
    # A tree of its own is none of it.
    write_tree(folder / 'check', PAIRS)
    assert read_label_set(folder).unlisted() == ['b/new.png']


def test_images_without_label_are_known(folder):
    failure = dict(name='c/1', image='c/1.png', reason='grey', error='one')
    write_lines(folder / 'failures.jsonl', [failure])
    path = folder / 'images.jsonl'
    write_lines(
        path, [*read_lines(path), failure, dict(name='c/2', image='c/2.png')]
    )
    tree = read_label_set(folder)
    assert tree.failures == [failure]
    assert tree.missing == ['c/2']


def test_lists_of_several_processes_are_merged(folder):
    lines = read_lines(folder / 'manifest.jsonl')
    (folder / 'manifest.jsonl').unlink()
    for i in range(2):
        write_lines(folder / f'manifest.{i}-of-2.jsonl', lines[i::2])
    assert read_label_set(folder).lines == lines
    assert not [*folder.glob('manifest.*-of-*')]


def test_what_is_no_folder_of_labels(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r'autolabel_meta\.json is'):
        read_label_set(tmp_path)
    (folder / 'manifest.jsonl').unlink()
    with pytest.raises(FileNotFoundError, match=r'manifest\.jsonl is missin'):
        read_label_set(folder)
    (folder / 'autolabel_meta.json').write_text('{')
    with pytest.raises(ValueError, match='is damaged'):
        read_label_set(folder)
    write_meta(folder, make_meta(settings=dict(label_ids=[1, 2])))
    with pytest.raises(ValueError, match=r'json: 2 label_ids of 4 classes'):
        read_label_set(folder)
