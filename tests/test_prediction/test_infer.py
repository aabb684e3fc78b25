"""What tools/infer.py writes, against other ways to predict."""

import json
import os
from functools import partial
from pathlib import Path

import cv2
import infer
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from PIL import Image

from hmsa_mmseg.prediction.inputs import IMAGE_SUFFIXES
from hmsa_mmseg.prediction.journal import Journal
from hmsa_mmseg.prediction.loading import Pipeline
from hmsa_mmseg.prediction.predictor import Predictor
from hmsa_mmseg.visualization import read_record, read_records

from .conftest import SCRIPTS_IDS, draw, read, save, tree

CFG = '--cfg-options'
PIPELINE = 'test_dataloader.dataset.pipeline'


def test_flip_scales_and_slide(run, network, tmp_path):
    """Against plain calls of the model, averaged here."""
    logits = network(0.5, 1.0)
    image = draw(0)
    plain = logits(image)
    halves = [logits(image, slice(k, k + 32)) for k in (0, 32)]
    for out, options, expected in (
        ('plain', (), plain),
        ('flip', ['--flip'], (plain + logits(image, flip=True)) / 2),
        ('slide', ['--slide', '32', '32'], torch.cat(halves, -1)),
    ):
        saves = '--scales', '1,0.5', '--save', 'classes'
        run('--limit', '1', *saves, *options, out=out)
        found = read(tmp_path / out / 'classes/a/0.png')
        expected = expected[0].argmax(0).numpy()
        assert np.mean(found == expected) > 0.999
        if out != 'plain':
            assert (expected != plain[0].argmax(0).numpy()).any()


def test_everything_that_can_be_saved(run, tmp_path):
    saves = 'classes color overlay confidence attention weights scales winning'
    options = ('--limit', '1', '--save', *saves.split(), 'report')
    run(*options)
    out = tmp_path / 'out'
    per_scale = [f'{n}_{s}' for n in ('scale', 'weight') for s in (0.5, 1, 2)]
    assert {path.name for path in out.iterdir()} == {
        *('classes', 'color', 'overlay', 'confidence', 'winning_scale'),
        *('attn_0.5', 'attn_1', 'finished', 'infer.json', 'scale_maps'),
        *per_scale,
    }
    classes = read(out / 'classes/a/0.png')
    assert np.array_equal(classes, read(out / 'color/a/0.png'))
    palette = json.loads((out / 'infer.json').read_text())['palette']
    rgb = np.array(Image.open(out / 'color/a/0.png').convert('RGB'))
    assert np.array_equal(rgb, np.array(palette)[classes])
    assert read(out / 'overlay/a/0.jpg').shape == (32, 64, 3)
    record = json.loads((out / 'scale_maps/a/0.json').read_text())
    assert record['image'] == 'a/0.png'
    counts = np.bincount(classes.ravel(), minlength=19)
    assert record['class_pixels'] == counts.tolist()
    assert 'attn_1' in record['pictures']
    assert all((out / path).is_file() for path in record['pictures'].values())
    assert '0 done, 1 had been' in run(*options)
    # Nothing of single scales is left of flips.
    run('--limit', '1', '--save', 'report', '--flip', out='flip')
    record = json.loads((tmp_path / 'flip/scale_maps/a/0.json').read_text())
    assert 'attn_1' not in record['pictures']


def test_stock_model(run, make_config, network, tmp_path):
    """Classes and confidence; what is of scales is refused by name."""
    config = make_config(
        """
head = dict(type='FCNHead', in_channels=16, in_index=1, channels=8,
            num_convs=1, num_classes=19, norm_cfg=dict(type='BN'))
model = dict(type='EncoderDecoder', decode_head=dict(_delete_=True, **head),
             train_cfg=None, test_cfg=dict(_delete_=True, mode='whole'))"""
    )
    logits = network(config=config, checkpoint=None)
    torch.nn.init.normal_(logits.model.decode_head.conv_seg.weight)
    checkpoint = tmp_path / 'stock.pth'
    meta = dict(dataset_meta=dict(classes=tuple('abcdefghijklmnopqrs')))
    state = logits.model.state_dict()
    torch.save(dict(state_dict=state, meta=meta), checkpoint)
    run = partial(run, config=config, checkpoint=checkpoint)
    for options in (
        ('--save', 'attention'),
        ('--scales', '0.5,1'),
        ('--dtype', 'bfloat16'),
    ):
        error = run(*options, code=1)
        assert options[0] in error
        assert 'MultiScaleAverageHead' in error
    assert not (tmp_path / 'out').exists()
    plain = logits(draw(0))
    for options, expected in (
        (['--save', 'classes', 'confidence', 'overlay', 'report'], plain),
        (
            ['--save', 'report', '--flip', '--overwrite'],
            (plain + logits(draw(0), flip=True)) / 2,
        ),
    ):
        run('--limit', '1', *options)
        record = json.loads((tmp_path / 'out/scale_maps/a/0.json').read_text())
        mean = expected.double().softmax(dim=1).amax(dim=1).mean().item()
        assert record['mean_confidence'] == pytest.approx(mean, rel=1e-5)
    assert len(np.unique(read(tmp_path / 'out/classes/a/0.png'))) > 1
    # A bar and its numbers are below the picture.
    height, width, _ = read(tmp_path / 'out/confidence/a/0.jpg').shape
    assert (height >= 32, width) == (True, 64)


@pytest.mark.parametrize('flip', [False, True])
def test_confidence_without_logits(flip, teacher, network, images):
    """Of the classes that are written, also with `classes_only`."""
    cfg = Config.fromfile(teacher.config)
    logits = network()
    cfg.model.test_cfg.classes_only = True
    predictor = Predictor(
        *(cfg, str(teacher.checkpoint), 'cpu'), flip=flip, confidence=True
    )
    made = []
    head = predictor.model.decode_head
    head.predict = lambda *args: made.append(args)
    loaded = Pipeline(cfg).load(images / 'a/0.png')
    expected = logits(loaded.image)
    if flip:
        expected = (expected + logits(loaded.image, flip=True)) / 2
    [result] = predictor([loaded])
    assert not made
    assert {*result.keys()} == {'pred_sem_seg', 'confidence'}
    torch.testing.assert_close(
        result.confidence.data,
        expected.softmax(dim=1).amax(dim=1),
        rtol=0,
        atol=1e-5,
    )


def test_label_ids(run, teacher, tmp_path):
    """As the data set of the config numbers its classes."""
    checkpoint = torch.load(teacher.checkpoint, weights_only=True)
    names = dict(classes=tuple('abcdefghijklmnopqrs'))
    checkpoint['meta'] = dict(dataset_meta=names)
    named = tmp_path / 'named.pth'
    torch.save(checkpoint, named)
    run = partial(run, '--save', 'classes', '--limit', '1', checkpoint=named)
    dataset = 'test_dataloader.dataset.type='
    run()
    run('--label-ids', out='ids')
    options = ('--label-ids', '--cfg-options')
    run(*options, f'{dataset}ADE20KDataset', out='ade')
    error = run(*options, f'{dataset}PascalVOCDataset', code=1, out='voc')
    assert 'PascalVOCDataset' in error
    classes, ids, ade = (
        read(tmp_path / f'{out}/classes/a/0.png')
        for out in ('out', 'ids', 'ade')
    )
    assert len(np.unique(classes)) > 3
    assert np.array_equal(np.array(SCRIPTS_IDS)[classes], ids)
    assert np.array_equal(classes + 1, ade)


@pytest.mark.fault(
    'images of several sizes with --batch-size 2: infer',
    'predicted in batches of one size each',
)
def test_batches_of_several_sizes(run, images, tmp_path):
    """Larger batches, of one size each, give what single images give."""
    save(images / 'b/0.png', 2, 51, 90)
    for out, size in (('one', 1), ('two', 2)):
        options = ('--batch-size', size, '--threads', size - 1)
        run(*options, '--save', 'classes', out=out)
    for name, shape in (('b/0', (51, 90)), ('a/1', (32, 64))):
        one, two = (
            read(tmp_path / out / f'classes/{name}.png')
            for out in ('one', 'two')
        )
        assert one.shape == shape
        assert np.mean(one == two) > 0.999


@pytest.mark.fault(
    'grey, alpha, 16 bits, palette, EXIF, 1x1, 7x1: infer',
    'predicted as the same pixels in RGB are',
)
def test_pixels_of_all_kinds(run, tmp_path):
    """Each image against the same pixels as a plain PNG of three channels.

    Whatever is taken for an image by its name can be read.
    """
    folder = tmp_path / 'kinds'
    sizes = {'1x1': (1, 1), '7x1': (7, 1), '31x33': (31, 33)}
    for name, size in sizes.items():
        save(folder / f'{name}.png', 0, *size)
    pixels = draw(0)
    image = Image.fromarray(pixels)
    grey = image.convert('L')
    turned = Image.Exif()
    turned[0x0112] = 6  # taken with the camera turned: rotate by 270 degrees
    image.save(folder / 'turned.jpg', exif=turned)
    image.save(tmp_path / 'turned.jpg')
    # Name: the file, and its pixels.
    pairs = {
        'grey': (grey, grey),
        'alpha': (image.convert('RGBA'), image),
        'deep': (Image.fromarray(np.array(grey).astype('u2') * 257), grey),
        'palette': (image.quantize(16), image.quantize(16)),
        'turned': (
            None,
            Image.open(tmp_path / 'turned.jpg').transpose(
                Image.Transpose.ROTATE_270
            ),
        ),
    }
    for name, (file, plain) in pairs.items():
        if file is not None:
            file.save(folder / f'{name}.png')
        plain.convert('RGB').save(folder / f'{name}_plain.png')
    for suffix in IMAGE_SUFFIXES:
        path = folder / f'of_{suffix[1:]}{suffix}'
        kind = pixels[..., 0] if suffix in ('.pbm', '.pgm') else pixels
        try:
            if cv2.imwrite(str(path), kind):
                sizes[path.stem] = (32, 64)
        # This OpenCV was built without it.
        except cv2.error:
            path.unlink(missing_ok=True)
    run('--save', 'classes', 'overlay', source=folder)
    found = {
        path.stem: read(path) for path in (tmp_path / 'out/classes').iterdir()
    }
    assert {name: found[name].shape for name in sizes} == sizes
    assert len(sizes) >= 14
    assert read(tmp_path / 'out/overlay/1x1.jpg').ndim == 3
    for name in pairs:
        assert np.array_equal(found[name], found[f'{name}_plain']), name
    assert found['turned'].shape == (64, 32)


@pytest.mark.fault(
    'images that are empty, cut, or no image: infer',
    'an error with the path; listed with --on-error skip',
)
def test_damaged_images(run, images, tmp_path):
    """They stop the run, after those before them; or are listed in the end."""
    bad = {
        'cut.jpg': (slice(-100), 'image file is truncated'),
        'empty.png': (slice(0), 'the file is empty'),
        'no.jpg': (slice(100, 200), 'damaged'),
        'short.png': (slice(-100), 'image file is truncated'),
    }
    for name, (kept, _) in bad.items():
        path = save(images / 'b' / name, 0)
        path.write_bytes(path.read_bytes()[kept])
    error = run('--save', 'classes', code=1)
    assert f'error: {images}/b/cut.jpg: damaged: OSError' in error
    assert len(tree(tmp_path / 'out/finished')) == 4
    error = run('--save', 'classes', '--on-error', 'skip', code=1)
    assert '1 done, 4 had been finished before, 4 skipped' in error
    for name, (_, said) in bad.items():
        assert f'skipped: {images}/b/{name}: ' in error
        assert said in error
    assert len(tree(tmp_path / 'out/finished')) == 5
    stems = {Path(name).stem for name in tree(tmp_path / 'out')}
    assert stems.isdisjoint(Path(name).stem for name in bad)


@pytest.mark.fault(
    'a checkpoint of other classes, or cut: infer',
    'refused before anything is written',
)
def test_checkpoints_that_do_not_fit(run, teacher, tmp_path):
    path = tmp_path / 'bad.pth'
    checkpoint = torch.load(teacher.checkpoint, weights_only=True)
    state = checkpoint['state_dict']
    names = dict(dataset_meta=dict(classes=('road', 'sky')))
    torch.save(dict(checkpoint, meta=names), path)
    assert '2 classes, the model has 19' in run(checkpoint=path, code=1)
    five = {k: v[:5] if 'conv_seg' in k else v for k, v in state.items()}
    torch.save(dict(checkpoint, state_dict=five), path)
    assert '5 classes' in run(checkpoint=path, code=1)
    path.write_bytes(path.read_bytes()[:-100])
    assert 'bad.pth' in run(checkpoint=path, code=1)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        ('--flip --save winning', '--save winning'),
        ('--scales 1 --save attention', '--save attention'),
        # Of version 0.1.
        (
            f'{CFG} model.test_cfg.memory_budget=1e9',
            'memory_budget=1000000000',
        ),
        ('--device moon', '--device moon'),
        (
            f'{CFG} {PIPELINE}.0.type=PackSegInputs',
            'expected LoadImageFromFile',
        ),
        (
            f'{CFG} {PIPELINE}.2.type=Pad {PIPELINE}.2.size_divisor=64',
            'Pad in the pipeline of a test',
        ),
        (
            f'{CFG} test_dataloader.dataset.pipeline=[] test_pipeline=[]',
            'no test_dataloader.dataset.pipeline',
        ),
        # Nobody knows the classes.
        (
            f'{CFG} test_dataloader.dataset.type=BaseSegDataset',
            'test_dataloader.dataset.metainfo.classes',
        ),
    ],
)
def test_options_that_do_not_go_together(run, tmp_path, options, named):
    assert named in run(*options.split(), code=1)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        ('--slide 8,8,8 4', 'height,width'),
        ('--limit 0', '1 or more'),
        ('--threads -1', '0 or more'),
    ],
)
def test_numbers_that_are_none(argv, capsys, options, named):
    with pytest.raises(SystemExit):
        infer.main(argv(infer, *options.split()))
    assert named in capsys.readouterr().err


def test_configs_that_cannot_be_read(run, make_config, tmp_path):
    for config, named in (
        (tmp_path / 'none.py', 'none.py'),
        (make_config('model = ('), 'cannot be read as a config'),
    ):
        assert named in run(config=config, code=1)


def test_a_model_that_is_no_segmentor(run, make_config, tmp_path):
    class Other(torch.nn.Linear):
        def __init__(self, **kwargs):
            super().__init__(1, 1)

    MODELS.register_module(module=Other, force=True)
    config = make_config("model = dict(_delete_=True, type='Other')")
    path = tmp_path / 'other.pth'
    torch.save(Other().state_dict(), path)
    said = run(config=config, checkpoint=path, code=1)
    assert 'expected an EncoderDecoder' in said


def test_goes_on(run, tmp_path, predicted):
    """What is finished, whole and of the same settings is not done again."""
    out = tmp_path / 'out'

    def again(*saves, **kwargs):
        predicted.clear()
        run('--save', 'classes', *saves, **kwargs)
        return predicted

    said = run('--save', 'classes', '--limit', '3', '--shard', '1/2')
    assert 'share 1/2: 1 done' in said
    assert predicted == ['1.png']
    assert again('--limit', '3') == ['0.png', '0.png']
    assert again() == ['2.png', 'top.png']
    assert again() == []
    (out / 'classes/a/1.png').unlink()
    assert again() == ['1.png']
    (out / 'finished/top.json').write_text('{')
    assert again() == ['top.png']
    # Something more is saved; what there is stays good.
    assert len(again('color')) == 5
    assert again() == []
    # Other settings.
    before = tree(out)
    assert again('--flip', code=1) == []
    assert tree(out) == before
    assert len(again('--flip', '--overwrite')) == 5
    assert again('--flip') == []
    assert len(again('--flip', '--overwrite')) == 5
    # With the color of before, which is of other settings now.
    assert len(again('color', '--flip')) == 5


@pytest.mark.fault(
    'infer --overwrite fails halfway',
    'what was begun is not taken for the old results',
)
def test_killed_while_results_are_replaced(run, predicted):
    """What was begun with other settings is not taken for that of before."""
    run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, 'write', lambda *args: os.listdir('/nowhere'))
        run('--flip', '--overwrite', '--writers', '1', code=1)
    run('--overwrite', '--shard', '1/2')
    predicted.clear()
    run()
    assert '0.png' in predicted


def test_goes_on_with_a_report(run, images, tmp_path, predicted):
    def again(*args):
        predicted.clear()
        run('--save', 'report', *args)
        return predicted

    assert len(again()) == 5
    records = tmp_path / 'out/scale_maps'
    (records / 'a/1/overlay.jpg').unlink()
    assert again() == ['1.png']
    # The same name with another suffix.
    image = images / 'top.bmp'
    Image.open(images / 'top.png').save(image)
    (images / 'top.png').unlink()
    assert again() == ['top.bmp']
    assert read_record(records / 'top.json').image == 'top.bmp'
    assert again() == []
    # A page of two runs would be of none.
    again('--scales', '0.5,1', '--overwrite', '--limit', '2')
    found = read_records(tmp_path / 'out')
    assert [record.image for record in found] == ['a/0.png', 'a/1.png']
    assert {record.scales for record in found} == {(0.5, 1.0)}
