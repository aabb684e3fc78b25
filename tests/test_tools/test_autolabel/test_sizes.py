"""Labels have the size of the array that loaders of data sets give."""

import mmcv
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures('quick')
# Height and width.
SIZES = [(1, 1), (1, 7), (5, 1), (3, 50), (31, 33), (400, 600)]


def test_odd_sizes(run, tmp_path, save, read, lines):
    folder = tmp_path / 'sizes'
    for size in SIZES:
        save(folder / '{}x{}.png'.format(*size), 0, *size)
    run(source=folder)
    for size in SIZES:
        name = '{}x{}'.format(*size)
        for end in ('', '_prob'):
            assert read(tmp_path / f'out/{name}{end}.png').shape == size
    assert lines(tmp_path / 'out/failures.jsonl') == []


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_turned_photographs(run, tmp_path, draw, read, predicted, orientation):
    """As the loader turns them; and they are not taken for others later."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = tmp_path / 'turned'
    folder.mkdir()
    image = Image.fromarray(draw(0))
    image.save(folder / 'photo.jpg', exif=exif, quality=95)
    size = mmcv.imread(str(folder / 'photo.jpg')).shape[:2]
    assert size == ((32, 64) if orientation < 5 else (64, 32))
    run(source=folder)
    label = read(tmp_path / 'out/photo.png')
    assert label.shape == size
    # The label is of the turned pixels.
    turned = mmcv.imread(str(folder / 'photo.jpg'), channel_order='rgb')
    plain = tmp_path / 'plain/photo.png'
    plain.parent.mkdir()
    Image.fromarray(turned).save(plain)
    run(source=plain.parent, out='straight')
    assert np.array_equal(label, read(tmp_path / 'straight/photo.png'))
    predicted.clear()
    run(source=folder)
    assert predicted == []


def test_a_pipeline_that_resizes(run, teacher, tmp_path, read):
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(teacher.config)!r}\n'
        'test_dataloader = dict(dataset=dict(pipeline=[\n'
        "    dict(type='LoadImageFromFile'),\n"
        "    dict(type='Resize', scale=(48, 24)),\n"
        "    dict(type='PackSegInputs')]))\n"
    )
    run('--limit', '1', config=config)
    assert read(tmp_path / 'out/a/0.png').shape == (32, 64)
