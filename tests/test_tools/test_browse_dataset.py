"""Pictures of a data set as its pipeline gives it."""

import runpy

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.datasets import CityscapesDataset
from PIL import Image

TOOL = 'analysis_tools/browse_dataset.py'
# The visualizer of the shipped configs is one that mmseg's tools can use.
VISUALIZER = dict(type='SegLocalVisualizer', alpha=0.8)
NUM_IMAGES = 4


@pytest.fixture
def browse(load_tool, tmp_path):
    """Return a function that runs the tool and gives the pictures."""
    tool = load_tool(TOOL)

    def run(config, *args):
        out = tmp_path / 'pictures'
        args = [str(config), '--not-show', '--output-dir', str(out), *args]
        assert tool.main(args) == 0
        return {path.name: path for path in sorted(out.iterdir())}

    return run


@pytest.fixture
def plain_config(config_file, tmp_path):
    """The tiny config, images and labels as they are on disk."""
    cfg = Config.fromfile(config_file)
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ]
    cfg.visualizer = dict(VISUALIZER, name='visualizer')
    path = tmp_path / 'plain.py'

    def write(wrap=lambda dataset: dataset):
        cfg.train_dataloader.dataset = wrap(cfg.train_dataloader.dataset)
        cfg.dump(path)
        return path

    return write


@pytest.mark.parametrize('folder', ['analysis_tools', 'misc'])
def test_stock_fails(stock_is_broken, plain_config, folder):
    stock_is_broken(
        *(f'{folder}/browse_dataset.py', plain_config()),
        *('--not-show', '--output-dir', 'out'),
        error=cv2.error,
        match='Layout of the output array',
        own=TOOL,
    )


def test_labels_lie_over_the_images(browse, plain_config, data_root):
    found = browse(plain_config())
    folder = data_root / 'leftImg8bit/train/aachen'
    assert [*found] == sorted(path.name for path in folder.iterdir())
    palette = np.array(CityscapesDataset.METAINFO['palette'])
    for name, path in found.items():
        image = np.array(Image.open(folder / name)).astype(float)
        label = name.replace('leftImg8bit', 'gtFine_labelTrainIds')
        label = np.array(Image.open(data_root / 'gtFine/train/aachen' / label))
        drawn = np.array(Image.open(path)).astype(float)
        known = label != 255
        colours = palette[label[known]]
        expected = 0.2 * image[known] + 0.8 * colours
        near = np.abs(drawn[known] - expected).max(axis=-1) <= 2
        # The names of classes lie over the rest.
        assert near.mean() > 0.7
        unlabelled = np.abs(drawn[~known] - 0.2 * image[~known])
        assert np.median(unlabelled) <= 2


def test_wrappers_and_repeated_images(browse, plain_config):
    def wrap(dataset):
        return dict(
            type='ClassUniformDataset',
            dataset=dict(type='ConcatDataset', datasets=[dataset, dataset]),
        )

    names = [*browse(plain_config(wrap))]
    assert len(names) == 2 * NUM_IMAGES
    assert 'aachen_000000_000019_leftImg8bit.png' in names
    assert 'aachen_000000_000019_leftImg8bit_1.png' in names


def test_another_split_of_a_training_config(browse, config_file):
    found = browse(config_file, '--split', 'val', '--number', '2')
    assert len(found) == 2
    # A test compares with the label of the file, which is larger here.
    scale = 'val_dataloader.dataset.pipeline.1.scale=(64,32)'
    for path in browse(
        config_file, '--split', 'val', '--cfg-options', scale
    ).values():
        assert cv2.imread(str(path)).shape == (32, 64, 3)
    # The training pipeline changes values to other than whole numbers.
    assert len(browse(config_file, '--number', '3')) >= 3


def test_its_other_place(load_tool, monkeypatch, capsys):
    tool = load_tool('misc/browse_dataset.py').TOOL
    monkeypatch.setattr('sys.argv', ['browse_dataset.py', '-h'])
    with pytest.raises(SystemExit, match='0'):
        runpy.run_path(tool.parents[1] / 'misc' / tool.name, None, '__main__')
    assert '--show-interval' in capsys.readouterr().out


def test_errors(load_tool, config_file, capsys, monkeypatch):
    tool = load_tool(TOOL)
    with pytest.raises(SystemExit):
        tool.main([str(config_file), '--not-show'])
    assert 'leaves nothing to do' in capsys.readouterr().err
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    with pytest.raises(SystemExit):
        tool.main([str(config_file)])
    assert 'there is no display' in capsys.readouterr().err
    assert tool.main(['no_such_config', '--output-dir', 'x']) == 1
    assert 'neither a file nor' in capsys.readouterr().err
