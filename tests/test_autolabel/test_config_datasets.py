"""Data sets of a config, and names of their images."""

import os

import pytest
from mmengine.config import Config
from PIL import Image

from hmsa_mmseg.autolabel.config_datasets import build_leaves, images_of
from hmsa_mmseg.autolabel.label_images import find_images
from hmsa_mmseg.prediction.errors import PredictionError


@pytest.fixture
def cfg(tmp_path):
    for name in ('a/1.png', 'b/2.png'):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True)
        Image.new('RGB', (4, 4)).save(path)
    leaf = dict(
        type='HMSAFolderDataset',
        classes=('x', 'y'),
        data_root=str(tmp_path),
        pipeline=[],
    )
    wrapped = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset',
            datasets=[
                dict(leaf, data_prefix=dict(img_path=f'images{end}'))
                for end in ('', '/b')
            ],
        ),
    )
    return Config(dict(train_dataloader=dict(dataset=wrapped)))


def test_leaves_of_what_wraps_them(cfg, tmp_path):
    leaves = build_leaves(cfg, 'config:train_dataloader', test_mode=True)
    found = [[image.name for image in images_of(leaf)] for leaf in leaves]
    assert found == [['a/1', 'b/2'], ['2']]
    (image,) = images_of(leaves[1])
    assert os.path.samefile(image.path, tmp_path / 'images/b/2.png')
    assert image.index == 0


def test_images_to_be_labelled(cfg, tmp_path):
    source, out = 'config:train_dataloader', tmp_path / 'out'
    found = find_images(source, out, cfg)
    assert [item.name for item in found] == ['2', 'a/1', 'b/2']
    Image.new('RGB', (4, 4)).save(tmp_path / 'images/2.png')
    with pytest.raises(PredictionError, match='would both have results'):
        find_images(source, out, cfg)
    with pytest.raises(ValueError, match=r'no_dataloader\.dataset is missing'):
        find_images('config:no_dataloader', out, cfg)


def test_images_outside_of_their_folder(cfg, tmp_path):
    """A list may name them; they have their base name."""
    other = tmp_path / 'other/9.png'
    other.parent.mkdir()
    Image.new('RGB', (4, 4)).save(other)
    (leaf,) = build_leaves(cfg, 'train_dataloader', test_mode=True)[1:]
    leaf.get_data_info = lambda index: dict(img_path=str(other))
    assert [image.name for image in images_of(leaf)] == ['9']
