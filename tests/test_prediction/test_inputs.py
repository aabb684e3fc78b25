"""Inputs of both tools and the names of their results."""

import os
from pathlib import Path

import pytest

from hmsa_mmseg.autolabel.label_images import check_names
from hmsa_mmseg.autolabel.pairs import PairFiles
from hmsa_mmseg.prediction.errors import PredictionError
from hmsa_mmseg.prediction.inputs import Item, find_items

from .conftest import NAMES, draw, save, tree


def names(*inputs, **kwargs):
    return [item.name for item in find_items([*map(str, inputs)], **kwargs)]


@pytest.mark.fault(
    'links among the images that lead in a circle',
    'searched once',
)
def test_folders_files_and_links(images, tmp_path):
    (images / 'text.md').touch()
    (images / '.hidden.png').touch()
    upper = save(images / 'UPPER.PNG', 0)
    assert names(images) == ['UPPER', *NAMES]
    assert names(upper) == ['UPPER']
    # A file that is given twice is one.
    assert len(names(images, images / 'top.png', upper)) == 6
    upper.unlink()
    # Folders behind links are searched, but not for ever.
    (tmp_path / 'linked').symlink_to(images / 'b')
    (images / 'link').symlink_to(tmp_path / 'linked')
    (images / 'b/up').symlink_to(images)
    (images / 'self').symlink_to('self')
    assert names(images) == [*NAMES[:4], 'link/0', 'link/c/2', 'top']


@pytest.mark.fault(
    'results are written among the images',
    'they are not taken for images',
)
def test_results_among_the_images(run, label, images):
    """Neither tool takes what the other has written for an image."""
    run(out='images')
    run(out='images/results', source=images / 'a')
    label(out='images/labels')
    label(out='images/more/labels')
    assert names(images) == [*NAMES]
    # A folder of that name alone says nothing.
    save(images / 'b/overlay/1.png', 0)
    assert len(names(images)) == 6


def test_list(images, tmp_path):
    listed = tmp_path / 'lists/some.txt'
    listed.parent.mkdir()
    listed.write_text(f'../images/b/c/2.png\n\n{images}/b/0.png\n')
    assert names(listed) == ['c/2', '0']
    # Names as in the folder of all images, of which these are a part.
    assert names(listed, root=str(images)) == ['b/c/2', 'b/0']
    with pytest.raises(PredictionError, match='is not in --root'):
        names(listed, root=str(images / 'a'))
    with pytest.raises(PredictionError, match='is no list'):
        names(images, root=str(images))


@pytest.mark.fault(
    'inputs that do not exist, are streams, or share a name',
    'refused, with what is wrong',
)
def test_inputs_that_make_no_sense(images, tmp_path):
    (images / 'text.md').touch()
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty.txt').touch()
    (tmp_path / 'missing.txt').write_text('no.png')
    (tmp_path / 'binary.txt').write_bytes(b'\xff')
    save(tmp_path / 'suffixes/1.png', 0)
    save(tmp_path / 'suffixes/1.jpg', 0)
    save(tmp_path / 'clash/clip/1.png', 0)
    (tmp_path / 'clash/clip.mp4').touch()
    for inputs, named in (
        ('images/a images/b', 'named 0'),
        ('suffixes', 'named 1'),
        ('images/no.png', 'no file'),
        ('images/text.md', 'nothing to predict by its name'),
        ('rtsp://camera', 'streams are not read'),
        ('empty', 'nothing to predict in it'),
        ('empty.txt', 'is empty'),
        ('missing.txt', 'no file'),
        ('binary.txt', 'cannot be read as a list'),
        ('clash', 'in one folder, clip'),
    ):
        with pytest.raises(PredictionError, match=named):
            names(*(tmp_path / name for name in inputs.split()))


@pytest.mark.parametrize(
    ('found', 'layout', 'has_check', 'named'),
    [
        (['a/1', 'b/1'], 'authors-flat', False, '--layout folders'),
        (['1', '1_prob'], 'folders', False, 'and the label of'),
        (['a/1', 'b/1_prob'], 'authors-flat', False, 'and the label of'),
        (['check/1'], 'folders', True, '--check'),
        (['a/1', 'b/1', 'a/1_prob_2', 'check/1'], 'folders', False, None),
    ],
)
def test_names_of_labels_that_clash(found, layout, has_check, named):
    items = [Item(Path(f'/images/{name}.jpg'), name) for name in found]
    files = PairFiles('out', layout)
    if named is None:
        check_names(items, files, has_check)
        return
    with pytest.raises(PredictionError, match=named):
        check_names(items, files, has_check)


@pytest.mark.fault(
    'labels would replace images, also through a link',
    'refused; the images stay',
)
def test_labels_that_would_replace_images(label, images, tmp_path):
    """Also where a link leads to them."""
    before = (images / 'a/0.png').read_bytes()
    listed = tmp_path / 'list.txt'
    (tmp_path / 'link').symlink_to(images / 'a')
    (tmp_path / 'links').mkdir()
    os.symlink(images / 'a/0.png', tmp_path / 'links/0.png')
    for path, out in (
        ('images/a/0.png', 'images/a'),
        ('images/a/0.png', 'link'),
        ('links/0.png', 'images/a'),
    ):
        listed.write_text(f'{path}\n')
        said = label(source=listed, out=out, code=1)
        assert 'would replace an image' in said
    assert 'is the folder of the images' in label(out='images', code=1)
    assert (images / 'a/0.png').read_bytes() == before


@pytest.mark.fault(
    'file names that are not UTF-8, or as long as can be',
    'predicted as others are',
)
def test_names_that_are_long_or_no_text(either, tmp_path):
    """What a file system takes: 255 bytes, of whatever value."""
    folder = tmp_path / 'odd'
    folder.mkdir()
    pixels = draw(0).tobytes()
    head = b'P6 64 32 255\n'
    for name in ('x' * 240 + '.ppm', os.fsdecode(b'caf\xe9.ppm')):
        (folder / name).write_bytes(head + pixels)
    (folder / os.fsdecode(b'bad\xe9.ppm')).write_bytes(b'')
    said = either(*either.skip, source=folder, code=1)
    assert '\\udce9' in said or not either.skip
    found = [Path(name).stem for name in tree(tmp_path / 'out')]
    assert 'x' * 240 in found
    assert os.fsdecode(b'caf\xe9') in found
