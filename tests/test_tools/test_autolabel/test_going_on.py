"""Runs of tools/autolabel.py that go on, and folders with other labels."""

import json
import shutil

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from hmsa_mmseg.autolabel.meta import identity_of, read_meta

pytestmark = pytest.mark.usefixtures('quick')


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def other_size(path):
    with Image.open(path) as image:
        text = image.text
        image.resize((10, 10)).save(path)
    assert text is not None


def without_name(path):
    """The same pixels, of no teacher."""
    with Image.open(path) as image:
        Image.fromarray(np.array(image)).save(path)


#: What is done to which of two files.
DAMAGE = {
    'label cut': ('{}.png', cut),
    'confidence cut': ('{}_prob.png', cut),
    'label only': ('{}_prob.png', lambda path: path.unlink()),
    'confidence only': ('{}.png', lambda path: path.unlink()),
    'label empty': ('{}.png', lambda path: path.write_bytes(b'')),
    'label no image': ('{}.png', lambda path: path.write_text('no' * 99)),
    'confidence of another size': ('{}_prob.png', other_size),
    'of an unknown teacher': ('{}.png', without_name),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_labels_are_done_again(
    run, tmp_path, tree, done, predicted, damage
):
    """And no others; all is as if nothing had been."""
    pattern, change = DAMAGE[damage]
    change(tmp_path / 'out' / pattern.format('b/c/2'))
    run()
    assert predicted == ['2.png']
    assert tree(tmp_path / 'out') == done


def test_nothing_is_done_twice(run, tmp_path, tree, done, predicted):
    run()
    assert predicted == []
    assert tree(tmp_path / 'out') == done


def test_a_look_decodes_no_image(run, tmp_path, monkeypatch, done):
    """Of 20,000 PNG files that takes longer than their heads."""
    decoded = []
    for owner, name in (
        (PngImageFile, 'load'),
        (LoadImageFromFile, '__call__'),
    ):
        call = getattr(owner, name)

        def spied(self, *args, call=call):
            decoded.append(self)
            return call(self, *args)

        monkeypatch.setattr(owner, name, spied)
    run()
    assert decoded == []


def test_both_files_of_another_size(
    run, tmp_path, tree, done, predicted, save
):
    """Of an image that has been replaced."""
    save(tmp_path / 'images/top.png', 9, 24, 40)
    run()
    assert predicted == ['top.png']
    with Image.open(tmp_path / 'out/top.png') as label:
        assert label.size == (40, 24)


def test_another_image_of_that_name_and_size(
    run, tmp_path, tree, done, predicted, save
):
    """Replaced, or of another folder that was given by mistake."""
    save(tmp_path / 'images/top.png', 9)
    run()
    assert predicted == ['top.png']
    found = tree(tmp_path / 'out')
    assert found['top_prob.png'] != done['top_prob.png']
    assert found['b/0.png'] == done['b/0.png']


def test_labels_that_tell_no_length(run, tmp_path, predicted, done):
    """Made before labels did."""
    path = tmp_path / 'out/top.png'
    with Image.open(path) as image:
        text = PngInfo()
        for key, value in image.text.items():
            if key != 'autolabel-image-bytes':
                text.add_text(key, value)
        image.save(path, pnginfo=text)
    run()
    assert predicted == []


def test_limit_then_all(run, tmp_path, tree, done, predicted):
    shutil.rmtree(tmp_path / 'out')
    run('--limit', '2')
    assert read_meta(tmp_path / 'out')['images']['count'] == 2
    predicted.clear()
    run()
    assert predicted == ['0.png', '2.png', 'top.png']
    assert tree(tmp_path / 'out') == done


def test_other_settings_are_refused(run, tmp_path, tree, predicted, done):
    before = tree(tmp_path / 'out')
    said = run('--scales', '0.5,1', code=1)
    assert 'settings.scales was [0.5, 1.0, 2.0], now it is [0.5, 1.0]' in said
    assert '--overwrite' in said
    assert tree(tmp_path / 'out') == before
    assert predicted == []
    run('--scales', '0.5,1', '--overwrite', '--limit', '2')
    assert predicted == ['0.png', '1.png']
    # What is still of the first settings is not taken for good.
    predicted.clear()
    run('--scales', '0.5,1')
    assert predicted == ['0.png', '2.png', 'top.png']
    run('--scales', '0.5,1', out='new')
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_defaults_are_no_other_settings(run, tmp_path, predicted, done):
    (tmp_path / 'out/top.png').unlink()
    run('--dtype', 'float32')
    assert predicted == ['top.png']
    said = run('--dtype', 'bfloat16', code=1)
    assert 'settings.dtype was' in said


@pytest.fixture
def other_teacher(teacher, tmp_path):
    checkpoint = torch.load(teacher.checkpoint, weights_only=True)
    state = checkpoint['state_dict']
    key = next(key for key in state if 'conv_seg.bias' in key)
    state[key] = state[key] + torch.arange(19)
    path = tmp_path / 'other.pth'
    torch.save(checkpoint, path)
    return path


def test_other_teacher(
    run, tmp_path, tree, lines, predicted, teacher, other_teacher
):
    run('--limit', '3')
    first = tree(tmp_path / 'out')
    said = run(checkpoint=other_teacher, code=1)
    assert 'teacher.checkpoint_sha256 was' in said
    predicted.clear()
    run('--allow-mixed', checkpoint=other_teacher)
    assert predicted == ['2.png', 'top.png']
    found = tree(tmp_path / 'out')
    assert found['a/0.png'] == first['a/0.png']
    # Both are named, and which labels are of the first.
    meta = read_meta(tmp_path / 'out')
    (mixed,) = meta['mixed']
    before = json.loads(first['autolabel_meta.json'])
    assert (
        mixed['teacher']['checkpoint_sha256']
        == (before['teacher']['checkpoint_sha256'])
    )
    old = identity_of(before)
    assert [
        line.get('identity') for line in lines(tmp_path / 'out/manifest.jsonl')
    ] == [old, old, old, None, None]
    # Now it is known what the folder holds.
    predicted.clear()
    run(checkpoint=other_teacher)
    assert predicted == []
    # What the files mean is one thing in a folder, whoever made them.
    said = run(
        *('--allow-mixed', '--label-format', 'trainIds'),
        checkpoint=other_teacher,
        code=1,
    )
    assert 'settings.label_format' in said
    run('--overwrite', checkpoint=other_teacher)
    assert 'mixed' not in read_meta(tmp_path / 'out')


def test_names_of_files_are_no_identity(
    run, teacher, tmp_path, predicted, done
):
    """A checkpoint that was moved is the same teacher."""
    moved = tmp_path / 'moved.pth'
    moved.write_bytes(teacher.checkpoint.read_bytes())
    run(checkpoint=moved)
    assert predicted == []


def test_from_confidence_to_none(run, tmp_path, tree, done):
    """No confidence of other labels is left beside the new ones."""
    run('--prob', 'none', '--overwrite')
    assert not [name for name in tree(tmp_path / 'out') if '_prob' in name]


def test_foreign_folders(run, tmp_path):
    mine = tmp_path / 'out/mine.png'
    mine.parent.mkdir()
    mine.write_text('mine')
    assert 'was not written by this program' in run(code=1)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mine.png']
    run('--overwrite', '--limit', '1')
    assert mine.read_text() == 'mine'
    (tmp_path / 'out/autolabel_meta.json').write_text('[]')
    assert 'autolabel_meta.json is damaged' in run(code=1)
    meta = dict(version=2, teacher={}, settings={})
    (tmp_path / 'out/autolabel_meta.json').write_text(json.dumps(meta))
    assert 'version=2' in run(code=1)


def test_failed_images_are_tried_again(run, tmp_path, tree, done, images):
    shutil.rmtree(tmp_path / 'out')
    good = (images / 'b/0.png').read_bytes()
    (images / 'b/0.png').write_bytes(b'')
    run(code=1)
    assert 'b/0.png' not in tree(tmp_path / 'out')
    assert run(code=1)
    (images / 'b/0.png').write_bytes(good)
    run()
    assert tree(tmp_path / 'out') == done


def test_a_label_of_an_image_that_is_damaged_now(run, tmp_path, images, done):
    (images / 'b/0.png').write_bytes(b'')
    run('--overwrite', code=1)
    assert not (tmp_path / 'out/b/0.png').exists()
    assert not (tmp_path / 'out/b/0_prob.png').exists()
