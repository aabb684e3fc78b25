"""tools/infer.py against mmseg's own test.py."""

import infer
import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def _one_thread():
    """Round as the stock tool's process does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures('_one_thread')
def test_classes_are_those_of_test_py(
    run_tool, config_file, trained, val_images, tmp_path
):
    """To the last bit, by the names of the images."""
    run_tool(
        *('test.py', config_file, trained.checkpoint),
        *('--work-dir', 'work', '--out', 'expected'),
        cwd=tmp_path,
    )
    argv = [config_file, trained.checkpoint, val_images[0].parents[1]]
    argv += ['--out', tmp_path / 'out', '--save', 'classes', '--device', 'cpu']
    assert infer.main([str(part) for part in argv]) == 0
    found = sorted((tmp_path / 'out/classes').rglob('*.png'))
    expected = sorted((tmp_path / 'expected').iterdir())
    assert len(found) == len(expected) == len(val_images)
    for one, other, image in zip(found, expected, val_images):
        assert one.parent.name == image.parent.name
        assert one.name == other.name == image.name
        first, second = (np.array(Image.open(path)) for path in (one, other))
        assert np.array_equal(first, second)
    assert len(np.unique(first)) > 1
