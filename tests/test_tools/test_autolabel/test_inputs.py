"""Images of tools/autolabel.py and the names of their labels."""

import os
from pathlib import Path

import pytest
from autolabelling.inputs import check_names, find_images

from hmsa_mmseg.autolabel.pairs import PairFiles
from hmsa_mmseg.prediction.errors import InferError
from hmsa_mmseg.prediction.inputs import Item
from hmsa_mmseg.utils.loading import read_config

NAMES = ['a/0', 'a/1', 'b/0', 'b/c/2', 'top']


def names(*args, **kwargs):
    return [item.name for item in find_images(*args, **kwargs)]


def test_folder(images, tmp_path, save):
    out = tmp_path / 'out'
    (images / 'text.md').touch()
    (images / '.hidden.png').touch()
    save(images / 'UPPER.PNG', 0)
    assert names(str(images), out, None) == ['UPPER', *NAMES]
    items = find_images(str(images), out, None)
    assert items[4].path == images / 'b/c/2.png'


def test_links(images, tmp_path):
    """Folders behind links are searched, but not for ever."""
    (tmp_path / 'linked').symlink_to(images / 'b')
    (images / 'link').symlink_to(tmp_path / 'linked')
    (images / 'b/up').symlink_to(images)
    assert names(str(images), tmp_path / 'out', None) == [
        *('a/0', 'a/1', 'b/0', 'b/c/2', 'link/0', 'link/c/2', 'top')
    ]


def test_labels_within_the_folder_are_no_images(run, images, tmp_path, tree):
    run(out='images/labels')
    run(out='images/others')
    assert names(str(images), tmp_path / 'out', None) == NAMES
    assert 'labels/a/0.png' not in tree(images / 'others')


def test_list(images, tmp_path):
    listed = tmp_path / 'lists/some.txt'
    listed.parent.mkdir()
    listed.write_text(f'../images/b/c/2.png\n\n{images}/b/0.png\n')
    out = tmp_path / 'out'
    assert names(str(listed), out, None) == ['0', 'c/2']
    # Names as in the folder of all images, of which these are a part.
    assert names(str(listed), out, None, str(images)) == ['b/0', 'b/c/2']
    with pytest.raises(InferError, match='is not in --root'):
        find_images(str(listed), out, None, str(images / 'a'))
    with pytest.raises(InferError, match='is no list'):
        find_images(str(images), out, None, str(images))


@pytest.fixture
def config(teacher, tmp_path, save):
    """A config whose training set is of two folders."""
    for split, city in (('one', 'aachen'), ('two', 'bochum')):
        name = f'{city}_000000_000019_leftImg8bit.png'
        save(tmp_path / f'data/leftImg8bit/{split}/{city}/{name}', 1)
    path = tmp_path / 'config.py'
    path.write_text(
        f'_base_ = {str(teacher.config)!r}\n'
        f'root = {str(tmp_path / "data")!r}\n'
        'def part(split):\n'
        "    return dict(type='HMSACityscapesDataset', data_root=root,\n"
        "    data_prefix=dict(img_path='leftImg8bit/' + split,\n"
        "    seg_map_path='gtFine/' + split), pipeline=[])\n"
        'train_dataloader = dict(dataset=dict(_delete_=True,\n'
        "    type='ConcatDataset', datasets=[part('one'), part('two')]))\n"
        'del part\n'
    )
    return path


def test_data_sets_of_the_config(config, tmp_path):
    """Without labels; names are relative to each one's folder."""
    cfg = read_config(str(config))
    source, out = 'config:train_dataloader', tmp_path / 'out'
    assert names(source, out, cfg) == [
        'aachen/aachen_000000_000019_leftImg8bit',
        'bochum/bochum_000000_000019_leftImg8bit',
    ]
    two = tmp_path / 'data/leftImg8bit/two'
    (two / 'bochum').rename(two / 'aachen')
    (two / 'aachen/bochum_000000_000019_leftImg8bit.png').rename(
        two / 'aachen/aachen_000000_000019_leftImg8bit.png'
    )
    with pytest.raises(InferError, match='would both have the label'):
        find_images(source, out, cfg)
    with pytest.raises(ValueError, match=r'no_dataloader\.dataset is missing'):
        find_images('config:no_dataloader', out, cfg)


@pytest.mark.parametrize(
    ('source', 'named'),
    [
        ('empty', 'no image in it'),
        ('empty.txt', 'is empty'),
        ('missing.txt', 'there is no file'),
        ('text.txt', 'no image by its name'),
        ('no', 'no folder, no list'),
        ('out', 'is the folder of the images'),
        ('suffixes', 'would both have the label 1.png'),
    ],
)
def test_sources_that_make_no_sense(tmp_path, save, source, named):
    for folder in ('empty', 'out', 'suffixes'):
        (tmp_path / folder).mkdir()
    save(tmp_path / 'suffixes/1.png', 0)
    save(tmp_path / 'suffixes/1.jpg', 0)
    (tmp_path / 'empty.txt').touch()
    (tmp_path / 'missing.txt').write_text('no.png')
    (tmp_path / 'text.txt').write_text('empty.txt')
    with pytest.raises(InferError, match=named):
        find_images(str(tmp_path / source), tmp_path / 'out', None)


def items_of(*found):
    return [Item(Path(f'/images/{n}.jpg'), n) for n in found]


@pytest.mark.parametrize(
    ('found', 'layout', 'has_check', 'named'),
    [
        (['a/1', 'b/1'], 'authors-flat', False, '--layout folders'),
        (['1', '1_prob'], 'folders', False, 'and the label of'),
        (['a/1', 'b/1_prob'], 'authors-flat', False, 'and the label of'),
        (['check/1'], 'folders', True, '--check'),
    ],
)
def test_names_that_clash(found, layout, has_check, named):
    files = PairFiles('out', layout)
    with pytest.raises(InferError, match=named):
        check_names(items_of(*found), files, has_check)


def test_names_that_do_not_clash():
    files = PairFiles('out', 'folders')
    check_names(items_of('a/1', 'b/1', 'a/1_prob_2', 'check/1'), files, False)


def test_labels_that_would_replace_images(run, images, tmp_path):
    """Also where a link leads to them."""
    before = (images / 'a/0.png').read_bytes()
    listed = tmp_path / 'list.txt'
    listed.write_text('images/a/0.png\n')
    said = run(source=listed, out='images/a', code=1)
    assert 'would replace an image' in said
    (tmp_path / 'link').symlink_to(images / 'a')
    said = run(source=listed, out='link', code=1)
    assert 'would replace an image' in said
    (tmp_path / 'links').mkdir()
    os.symlink(images / 'a/0.png', tmp_path / 'links/0.png')
    listed.write_text('links/0.png\n')
    said = run(source=listed, out='images/a', code=1)
    assert 'would replace an image' in said
    assert 'is the folder of the images' in run(out='images', code=1)
    assert (images / 'a/0.png').read_bytes() == before
