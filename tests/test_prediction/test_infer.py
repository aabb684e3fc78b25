"""What tools/infer.py writes, against other ways to predict."""

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from hmsa_mmseg.prediction.inferring import parse_args
from hmsa_mmseg.prediction.inputs import IMAGE_SUFFIXES
from hmsa_mmseg.prediction.loading import Pipeline
from hmsa_mmseg.prediction.options import apply_options
from hmsa_mmseg.prediction.predicting import Predictor

PIPELINE = 'test_dataloader.dataset.pipeline.0.type'
# cityscapesScripts, helpers/labels.py: id of each train id, in their order.
SCRIPTS_IDS = [
    *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22),
    *(23, 24, 25, 26, 27, 28, 31, 32, 33),
]


def test_flip_scales_and_slide(run, network, draw, tmp_path, read):
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


def test_everything_that_can_be_saved(run, tmp_path, read):
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
    assert classes.shape == (32, 64)
    assert np.array_equal(classes, read(out / 'color/a/0.png'))
    palette = json.loads((out / 'infer.json').read_text())['palette']
    rgb = np.array(Image.open(out / 'color/a/0.png').convert('RGB'))
    assert np.array_equal(rgb, np.array(palette)[classes])
    assert read(out / 'overlay/a/0.jpg').shape == (32, 64, 3)
    record = json.loads((out / 'scale_maps/a/0.json').read_text())
    assert record['image'] == 'a/0.png'
    counts = np.bincount(classes.ravel(), minlength=19)
    assert record['class_pixels'] == counts.tolist()
    assert all((out / path).is_file() for path in record['pictures'].values())
    assert '0 done, 1 had been' in run(*options)


@pytest.mark.parametrize('flip', [False, True])
def test_a_report_of_flips_is_without_scales(teacher, flip):
    cfg = Config.fromfile(teacher.config)
    argv = ['config.py', 'a.pth', 'in', '--out', 'out', '--save', 'report']
    apply_options(cfg, parse_args([*argv, *['--flip'] * flip], ''))
    assert ('scale_maps' in cfg.model.test_cfg) == (not flip)


def test_stock_model(run, teacher, network, draw, tmp_path, read):
    """Classes and confidence; what is of scales is refused by name."""
    config = tmp_path / 'stock.py'
    config.write_text(
        f"""_base_ = {str(teacher.config)!r}
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
    stock = dict(config=config, checkpoint=checkpoint)
    for options, named in (
        (['--save', 'attention'], '--save attention'),
        (['--scales', '0.5,1'], '--scales'),
        (['--dtype', 'bfloat16'], '--dtype'),
    ):
        error = run(*options, code=1, **stock)
        assert named in error
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
        run('--limit', '1', *options, **stock)
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


def test_label_ids(run, teacher, tmp_path, read):
    """As the data set of the config numbers its classes."""
    checkpoint = torch.load(teacher.checkpoint, weights_only=True)
    names = dict(classes=tuple('abcdefghijklmnopqrs'))
    checkpoint['meta'] = dict(dataset_meta=names)
    named = tmp_path / 'named.pth'
    torch.save(checkpoint, named)
    run = partial(run, checkpoint=named)
    dataset = 'test_dataloader.dataset.type='
    save = ('--save', 'classes', '--limit', '1')
    run(*save)
    run(*save, '--label-ids', out='ids')
    options = (*save, '--label-ids', '--cfg-options')
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


def test_batches_of_several_sizes(run, images, save, tmp_path, read):
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


def test_pixels_of_all_kinds(run, draw, tmp_path, read):
    """Each image against the same pixels as a plain PNG of three channels."""
    folder = tmp_path / 'kinds'
    folder.mkdir()
    image = Image.fromarray(draw(0))
    grey = image.convert('L')
    deep = Image.fromarray(np.array(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6  # taken with the camera turned: rotate by 270 degrees
    # Name: the file, and its pixels.
    pairs = {
        'grey': (grey, grey.convert('RGB')),
        'alpha': (image.convert('RGBA'), image),
        'deep': (deep, grey),
        'palette': (image.quantize(16), image.quantize(16).convert('RGB')),
    }
    for name, (file, plain) in pairs.items():
        file.save(folder / f'{name}.png')
        plain.convert('RGB').save(folder / f'{name}_plain.png')
    image.save(folder / 'turned.jpg', exif=turned)
    image.save(tmp_path / 'turned.jpg')
    Image.open(tmp_path / 'turned.jpg').transpose(
        Image.Transpose.ROTATE_270
    ).save(folder / 'turned_plain.png')
    run('--save', 'classes', source=folder)
    for name in (*pairs, 'turned'):
        found, plain = (
            read(tmp_path / f'out/classes/{name}{end}.png')
            for end in ('', '_plain')
        )
        assert np.array_equal(found, plain), name
    assert plain.shape == (64, 32)


def test_sizes_and_suffixes(run, draw, save, tmp_path, read):
    """Whatever is taken for an image by its name can be read."""
    folder = tmp_path / 'kinds'
    sizes = {'1x1': (1, 1), '7x1': (7, 1), '50x3': (50, 3), '31x33': (31, 33)}
    for name, size in sizes.items():
        save(folder / f'{name}.png', 0, *size)
    pixels = draw(0)
    for suffix in IMAGE_SUFFIXES:
        path = folder / f'{suffix[1:]}{suffix}'
        kind = pixels[..., 0] if suffix in ('.pbm', '.pgm') else pixels
        try:
            if cv2.imwrite(str(path), kind):
                sizes[path.stem] = (32, 64)
        # This OpenCV was built without it.
        except cv2.error:
            path.unlink(missing_ok=True)
    run('--save', 'classes', 'overlay', source=folder)
    found = {
        path.stem: read(path).shape
        for path in (tmp_path / 'out/classes').iterdir()
    }
    assert found == sizes
    assert len(found) >= 14
    assert read(tmp_path / 'out/overlay/1x1.jpg').ndim == 3


def test_damaged_images(run, images, draw, tmp_path, tree):
    """They stop the run, after those before them; or are listed in the end."""
    bad = {
        'cut.jpg': 'image file is truncated',
        'short.png': 'image file is truncated',
        'empty.png': 'the file is empty',
        'no.jpg': 'damaged',
    }
    for name in bad:
        Image.fromarray(draw(0)).save(images / 'b' / name)
        content = (images / 'b' / name).read_bytes()[:-100]
        content = content if name[:3] in ('cut', 'sho') else b''
        content = b'no image' if name == 'no.jpg' else content
        (images / 'b' / name).write_bytes(content)
    error = run('--save', 'classes', code=1)
    assert f'error: {images}/b/cut.jpg: damaged: OSError' in error
    finished = [x for x in tree(tmp_path / 'out') if x.startswith('finished')]
    assert len(finished) == 4
    error = run('--save', 'classes', '--on-error', 'skip', code=1)
    assert '1 done, 4 had been finished before, 4 skipped' in error
    for name, said in bad.items():
        assert f'skipped: {images}/b/{name}: ' in error
        assert said in error
    found = tree(tmp_path / 'out')
    assert len([x for x in found if x.startswith('finished')]) == 5
    assert not [
        x for x in found if Path(x).stem in ('cut', 'short', 'empty', 'no')
    ]


@pytest.mark.parametrize('damage', ['missing', 'classes', 'names', 'cut'])
def test_checkpoints_that_do_not_fit(run, teacher, tmp_path, damage):
    checkpoint = torch.load(teacher.checkpoint, weights_only=True)
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
        names = dict(classes=('road', 'sky'))
        checkpoint['meta'] = dict(dataset_meta=names)
        named = '2 classes, the model has 19'
    torch.save(checkpoint, path)
    if damage == 'cut':
        path.write_bytes(path.read_bytes()[:-100])
    assert named in run(checkpoint=path, code=1)
    assert not (tmp_path / 'out').exists()


def test_classes_from_the_config(run, tmp_path):
    """Where a checkpoint, as one of another program, has no names."""
    run('--limit', '1')
    settings = json.loads((tmp_path / 'out/infer.json').read_text())
    assert settings['classes'][10] == 'sky'
    option = 'test_dataloader.dataset.type=BaseSegDataset'
    error = run('--cfg-options', option, code=1, out='none')
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
def test_options_that_do_not_go_together(run, tmp_path, options, named):
    assert named in run(*options, code=1)
    assert not (tmp_path / 'out').exists()
