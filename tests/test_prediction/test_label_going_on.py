"""Runs of tools/autolabel.py that go on, and folders with other labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from hmsa_mmseg.autolabel.meta import identity_of, read_meta
from hmsa_mmseg.datasets.autolabel_files import read_lines
from hmsa_mmseg.prediction import journal

from .conftest import tree


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def other_size(path):
    with Image.open(path) as image:
        image.resize((10, 10)).save(path)


def without_name(path):
    """The same pixels, of no teacher."""
    with Image.open(path) as image:
        Image.fromarray(np.array(image)).save(path)


#: What is done to which file of which image.
DAMAGE = [
    ('a/0.png', cut),
    ('a/1_prob.png', cut),
    ('b/0_prob.png', Path.unlink),
    ('b/c/2_prob.png', other_size),
    ('top.png', without_name),
]


@pytest.mark.fault(
    'auto-labels that are cut, lost or of another size',
    'these alone are predicted again',
)
def test_damaged_labels_are_done_again(label, tmp_path, done, predicted):
    """And no others; all is as if nothing had been."""
    label()
    assert predicted == []
    for name, damage in DAMAGE:
        damage(tmp_path / 'out' / name)
    label()
    assert predicted == ['0.png', '1.png', '0.png', '2.png', 'top.png']
    (tmp_path / 'out/b/0.png').unlink()
    label()
    assert predicted[5:] == ['0.png']
    assert tree(tmp_path / 'out') == done


def test_a_look_reads_no_image(label, monkeypatch):
    """Of 20,000 that takes longer than to ask the system for their times."""
    label()
    read = []
    journal._digest_of.cache_clear()
    monkeypatch.setattr(journal, 'file_digest', read.append)
    for owner, name in (
        (PngImageFile, 'load'),
        (LoadImageFromFile, '__call__'),
    ):
        call = getattr(owner, name)

        def spied(self, *args, call=call):
            read.append(self)
            return call(self, *args)

        monkeypatch.setattr(owner, name, spied)
    label()
    assert read == []


@pytest.mark.parametrize('texts', ['bytes', 'nothing'])
@pytest.mark.fault(
    'auto-labels of version 0.1',
    'taken as they are while their images have the same length',
)
def test_labels_of_version_0_1(label, tmp_path, predicted, done, texts):
    """They tell the length of the image's file; earlier ones not even that."""
    path = tmp_path / 'out/top.png'
    left_out = ['autolabel-image-sha256']
    left_out += ['autolabel-image-bytes'] * (texts == 'nothing')
    with Image.open(path) as image:
        text = PngInfo()
        for key, value in image.text.items():
            if key not in left_out:
                text.add_text(key, value)
        image.save(path, pnginfo=text)
    label()
    assert predicted == []
    with (tmp_path / 'images/top.png').open('ab') as file:
        file.write(b'more')
    label()
    assert predicted == ['top.png'] * (texts == 'bytes')


def test_other_settings_are_refused(label, tmp_path, predicted, done):
    before = tree(tmp_path / 'out')
    assert 'settings.dtype was' in label('--dtype', 'bfloat16', code=1)
    assert tree(tmp_path / 'out') == before
    label('--scales', '0.5,1', '--overwrite', '--limit', '2')
    assert predicted == ['0.png', '1.png']
    # What is still of the first settings is not taken for good.
    predicted.clear()
    label('--scales', '0.5,1')
    assert predicted == ['0.png', '2.png', 'top.png']
    label('--scales', '0.5,1', out='new')
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


@pytest.mark.fault(
    'autolabel goes on with another checkpoint',
    'refused, or noted for each label with --allow-mixed',
)
def test_other_teacher(label, tmp_path, predicted, teacher):
    checkpoint = torch.load(teacher.checkpoint, weights_only=True)
    state = checkpoint['state_dict']
    key = next(key for key in state if 'conv_seg.bias' in key)
    state[key] = state[key] + torch.arange(19)
    other = tmp_path / 'other.pth'
    torch.save(checkpoint, other)
    label('--limit', '3')
    first = tree(tmp_path / 'out')
    said = label(checkpoint=other, code=1)
    assert 'teacher.checkpoint_sha256 was' in said
    assert '--overwrite' in said
    predicted.clear()
    label('--allow-mixed', checkpoint=other)
    assert predicted == ['2.png', 'top.png']
    assert tree(tmp_path / 'out')['a/0.png'] == first['a/0.png']
    # Both are named, and which labels are of the first.
    (mixed,) = read_meta(tmp_path / 'out')['mixed']
    before = json.loads(first['autolabel_meta.json'])
    for key in ('teacher', 'settings'):
        assert mixed[key] == before[key]
    old = identity_of(before)
    assert [
        line.get('identity')
        for line in read_lines(tmp_path / 'out/manifest.jsonl')
    ] == [old, old, old, None, None]
    # Now it is known what the folder holds.
    predicted.clear()
    label(checkpoint=other)
    assert predicted == []
    # What the files mean is one thing in a folder, whoever made them.
    options = ('--allow-mixed', '--label-format', 'trainIds')
    assert 'settings.label_format' in label(*options, checkpoint=other, code=1)
    label('--overwrite', checkpoint=other)
    assert 'mixed' not in read_meta(tmp_path / 'out')


def test_from_confidence_to_none(label, tmp_path, done):
    """No confidence of other labels is left beside the new ones."""
    label('--prob', 'none', '--overwrite')
    assert not [*(tmp_path / 'out').rglob('*_prob.png')]


@pytest.mark.fault(
    'an image with a label has become unreadable',
    'its label is removed; it is tried again',
)
def test_failed_images(label, tmp_path, done, images):
    """They lose the label that they have, and are tried again."""
    good = (images / 'b/0.png').read_bytes()
    for content, reason in ((b'', 'empty'), (b'no image', 'undecodable')):
        (images / 'b/0.png').write_bytes(content)
        label(code=1)
        assert not [name for name in tree(tmp_path / 'out') if 'b/0' in name]
        (line,) = read_lines(tmp_path / 'out/failures.jsonl')
        assert line['reason'] == reason
    (images / 'b/0.png').write_bytes(good)
    label()
    assert tree(tmp_path / 'out') == done
