"""tools/infer.py with odd and damaged images, weights and options."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hmsa_mmseg.prediction.inputs import IMAGE_SUFFIXES
from hmsa_mmseg.prediction.predicting import Predictor

PIPELINE = 'test_dataloader.dataset.pipeline.0.type'


def test_pixels_of_all_kinds(run, val_images, tmp_path, read):
    """Each image against the same pixels as a plain PNG of three channels."""
    folder = tmp_path / 'images'
    folder.mkdir()
    image = Image.open(val_images[0])
    grey = image.convert('L')
    turned = Image.Exif()
    turned[0x0112] = 6  # taken with the camera turned: rotate by 270 degrees
    # Name: the file, and its pixels.
    jpeg = tmp_path / 'turned.jpg'
    image.save(jpeg)
    pairs = {
        'grey': (grey, grey.convert('RGB')),
        'alpha': (image.convert('RGBA'), image),
        'deep': (
            Image.fromarray(np.array(grey).astype(np.uint16) * 257),
            grey,
        ),
        'palette': (image.quantize(16), image.quantize(16).convert('RGB')),
    }
    for name, (file, plain) in pairs.items():
        file.save(folder / f'{name}.png')
        plain.convert('RGB').save(folder / f'{name}_plain.png')
    image.save(folder / 'turned.jpg', exif=turned)
    Image.open(jpeg).transpose(Image.Transpose.ROTATE_270).save(
        folder / 'turned_plain.png'
    )
    run(folder, '--save', 'classes')
    for name in (*pairs, 'turned'):
        found, plain = (
            read(tmp_path / f'out/classes/{name}{end}.png')
            for end in ('', '_plain')
        )
        assert np.array_equal(found, plain), name
    assert plain.shape == (128, 64)


def test_sizes(run, images, tmp_path, read):
    folder = tmp_path / 'sizes'
    folder.mkdir()
    sizes = [(1, 1), (1, 7), (3, 50), (31, 33)]
    for size in sizes:
        Image.open(images[0]).resize(size).save(
            folder / f'{size[0]}x{size[1]}.png'
        )
    run(folder, '--save', 'classes', 'overlay')
    for width, height in sizes:
        name = f'{width}x{height}'
        found = read(tmp_path / f'out/classes/{name}.png')
        assert found.shape == (height, width)
        assert read(tmp_path / f'out/overlay/{name}.jpg').ndim == 3


def test_suffixes(run, images, tmp_path):
    """Whatever is taken for an image by its name can be read."""
    cv2 = pytest.importorskip('cv2')
    folder = tmp_path / 'kinds'
    folder.mkdir()
    pixels = cv2.imread(str(images[0]))
    written = 0
    for suffix in IMAGE_SUFFIXES:
        try:
            kind = pixels[..., 0] if suffix in ('.pbm', '.pgm') else pixels
            written += cv2.imwrite(str(folder / f'{suffix[1:]}{suffix}'), kind)
        # This OpenCV was built without it.
        except cv2.error:
            (folder / f'{suffix[1:]}{suffix}').unlink(missing_ok=True)
    run(folder, '--save', 'classes')
    found = [*(tmp_path / 'out/classes').iterdir()]
    assert len(found) == written >= 10


@pytest.mark.parametrize('kind', ['cut.jpg', 'cut.png', 'empty.png', 'no.jpg'])
def test_damaged_images(run, images, tmp_path, kind):
    bad = tmp_path / 'images' / kind
    if kind.startswith('cut'):
        Image.open(images[0]).save(bad)
        bad.write_bytes(bad.read_bytes()[:-100])
    else:
        bad.write_text('' if kind == 'empty.png' else 'no image')
    error = run(tmp_path / 'images', code=1)
    assert f'error: {bad}: damaged' in error
    # Those before it are done, and stay.
    assert (tmp_path / 'out/finished/a/1.json').exists()
    assert (tmp_path / 'out/finished/b/1.json').exists()
    error = run(tmp_path / 'images', '--on-error', 'skip', code=1)
    assert f'skipped: {bad}' in error
    assert (tmp_path / 'out/finished/top.json').exists()
    assert not list((tmp_path / 'out').rglob(f'*{bad.stem}*'))


def test_image_that_the_model_cannot_do(run, images, tmp_path, monkeypatch):
    """In a batch the others are done alone."""
    call = Predictor.__call__

    def failing(self, batch):
        if any('/b/' in i.data_sample.img_path for i in batch):
            raise RuntimeError('out of memory')
        return call(self, batch)

    monkeypatch.setattr(Predictor, '__call__', failing)
    error = run(
        *(tmp_path / 'images', '--batch-size', '3', '--on-error', 'skip'),
        code=1,
    )
    assert f'skipped: {images[1]}: cannot be predicted at 64x128' in error
    assert 'out of memory' in error
    done = sorted(p.stem for p in (tmp_path / 'out/finished').rglob('*.json'))
    assert done == ['1', 'top']


@pytest.mark.parametrize('damage', ['missing', 'classes', 'names', 'cut'])
def test_checkpoints_that_do_not_fit(run, trained, images, tmp_path, damage):
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    path = tmp_path / 'bad.pth'
    state = checkpoint['state_dict']
    named = 'bad.pth'
    if damage == 'missing':
        named = next(key for key in state if 'scale_attn' in key)
        del state[named]
    elif damage == 'classes':
        for key in [key for key in state if 'conv_seg' in key]:
            state[key] = state[key][:5]
        named = '5 classes'
    elif damage == 'names':
        checkpoint['meta']['dataset_meta']['classes'] = ('road', 'sky')
        named = '2 classes, the model has 19'
    torch.save(checkpoint, path)
    if damage == 'cut':
        path.write_bytes(path.read_bytes()[:-100])
    error = run(images[0], checkpoint=path, code=1)
    assert named in error
    assert not (tmp_path / 'out').exists()


def test_classes_from_the_config(run, trained, images, tmp_path):
    """Where a checkpoint, as one of another program, has no names."""
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    path = tmp_path / 'bare.pth'
    torch.save(checkpoint['state_dict'], path)
    run(images[0], checkpoint=path)
    settings = json.loads((tmp_path / 'out/infer.json').read_text())
    assert settings['classes'][10] == 'sky'
    error = run(
        *(images[0], '--cfg-options'),
        'test_dataloader.dataset.type=BaseSegDataset',
        checkpoint=path,
        code=1,
        out='none',
    )
    assert 'test_dataloader.dataset.metainfo.classes' in error


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (['--flip', '--save', 'winning'], '--save winning'),
        (['--scales', '1', '--save', 'attention'], '--save attention'),
        # Of version 0.1.
        (
            ['--cfg-options', 'model.test_cfg.memory_budget=1e9'],
            'model.test_cfg.memory_budget=1000000000.0',
        ),
        (['--scales', '1,1'], 'model.test_cfg.scales'),
        (['--device', 'moon'], '--device moon'),
        (
            ['--cfg-options', f'{PIPELINE}=PackSegInputs'],
            'expected LoadImageFromFile',
        ),
    ],
)
def test_options_that_do_not_go_together(run, images, options, named):
    assert named in run(images[0], *options, code=1)
