"""The class centroids of a data set, built ahead of training."""

import numpy as np
import pytest
from PIL import Image

from hmsa_mmseg.datasets.centroid_index import read_rows


@pytest.fixture
def build(tmp_path, monkeypatch, config_file, capsys, load_tool):
    """Return a function that runs the tool on a tiny Cityscapes."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    tool = load_tool('build_centroids.py')

    def run(*args, code=0):
        assert tool.main([str(config_file), '--workers', '0', *args]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def test_builds_and_verifies(build, data_root, tmp_path):
    out = build('--tile-size', '32')
    (path,) = (tmp_path / 'xdg/hmsa_mmseg/centroids').iterdir()
    rows = read_rows(path)
    counts = dict.fromkeys(range(19), 0)
    for label in sorted((data_root / 'gtFine/train').rglob('*.png')):
        tiles = np.array(Image.open(label)).reshape(2, 32, 4, 32)
        for tile in tiles.transpose(0, 2, 1, 3).reshape(8, -1):
            for value in {*tile.tolist()} - {255}:
                counts[value] += 1
    assert np.bincount(rows[:, 3], minlength=19).tolist() == [*counts.values()]
    assert str(path) in out
    assert f'{len(rows)} centroids of 4 labels' in out
    (line,) = [row for row in out.splitlines() if row.startswith('sky')]
    assert int(line.split()[1]) == counts[10]

    out = build('--tile-size', '32', '--verify', 'full')
    assert 'all 4 labels are as in the file' in out

    # What is wrong is named and put right.
    path.write_bytes(path.read_bytes()[:-9])
    out = build('--tile-size', '32', '--verify', 'full')
    assert 'damaged' in out
    assert np.array_equal(read_rows(path), rows)


def test_errors(build, tmp_path):
    (tmp_path / 'file').touch()
    out = build('--cache-dir', str(tmp_path / 'file/cache'), code=1)
    assert 'could not be written' in out
    out = build(
        *('--cfg-options', f'train_dataloader.dataset.data_root={tmp_path}'),
        code=1,
    )
    assert out.splitlines()[-1].startswith('error: data_prefix.img_path')
