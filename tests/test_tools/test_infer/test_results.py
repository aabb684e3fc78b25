"""What tools/infer.py writes, against other ways to predict."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import init_model
from PIL import Image

from hmsa_mmseg.prediction.model_options import apply_options
from hmsa_mmseg.prediction.options import parse_args
from hmsa_mmseg.prediction.pipeline import Pipeline
from hmsa_mmseg.prediction.predicting import Predictor


def test_classes_are_those_of_test_py(
    run, run_tool, config_file, trained, val_images, tmp_path, one_thread, read
):
    run_tool(
        *('test.py', config_file, trained.checkpoint),
        *('--work-dir', 'work', '--out', 'expected'),
        cwd=tmp_path,
    )
    run(val_images[0].parents[1], '--save', 'classes')
    found = sorted((tmp_path / 'out/classes').rglob('*.png'))
    expected = sorted((tmp_path / 'expected').iterdir())
    assert len(found) == len(expected) == len(val_images)
    for one, other, image in zip(found, expected, val_images):
        assert one.parent.name == image.parent.name
        assert one.name == other.name == image.name
        assert np.array_equal(read(one), read(other))
    assert len(np.unique(read(found[0]))) > 1


def test_flip_scales_and_slide(
    run, config, trained, images, tmp_path, one_thread, read
):
    """Against plain calls of the model, averaged here."""
    cfg = Config.fromfile(config)
    cfg.model.test_cfg.scales = (0.5, 1.0)
    model = init_model(cfg, str(trained.checkpoint), 'cpu')
    pixels = torch.from_numpy(read(images[0])).permute(2, 0, 1)[None].flip(1)
    inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
    with torch.no_grad():
        plain = model.encode_decode(inputs)
        mirrored = model.encode_decode(inputs.flip(-1)).flip(-1)
        left, right = (
            model.encode_decode(inputs[..., columns])
            for columns in (slice(0, 64), slice(64, 128))
        )
    for out, options, logits in (
        ('plain', (), plain),
        ('flip', ['--flip'], (plain + mirrored) / 2),
        ('slide', ['--slide', '64', '64'], torch.cat([left, right], -1)),
    ):
        run(
            *(images[0], '--scales', '1,0.5', '--save', 'classes'),
            *options,
            out=out,
        )
        found = read(tmp_path / out / 'classes/1.png')
        expected = logits[0].argmax(0).numpy()
        assert np.mean(found == expected) > 0.999
        if out != 'plain':
            assert (expected != plain[0].argmax(0).numpy()).any()


def test_everything_that_can_be_saved(run, images, tmp_path, read):
    saves = 'classes color overlay confidence attention weights scales winning'
    run(images[0], '--save', *saves.split(), 'report')
    out = tmp_path / 'out'
    found = sorted(path.name for path in out.iterdir())
    per_scale = [f'{n}_{s}' for n in ('scale', 'weight') for s in (0.5, 1, 2)]
    assert found == sorted(
        [
            *('classes', 'color', 'overlay', 'confidence', 'winning_scale'),
            *('attn_0.5', 'attn_1', 'finished', 'infer.json', 'scale_maps'),
            *per_scale,
        ]
    )
    classes, color = read(out / 'classes/1.png'), read(out / 'color/1.png')
    assert classes.shape == (64, 128)
    assert np.array_equal(classes, color)
    palette = json.loads((out / 'infer.json').read_text())['palette']
    rgb = np.array(Image.open(out / 'color/1.png').convert('RGB'))
    assert np.array_equal(rgb, np.array(palette)[classes])
    assert read(out / 'overlay/1.jpg').shape == (64, 128, 3)
    record = json.loads((out / 'scale_maps/1.json').read_text())
    assert record['image'] == '1.png'
    assert (
        record['class_pixels']
        == np.bincount(classes.ravel(), minlength=19).tolist()
    )
    for path in record['pictures'].values():
        assert (out / path).is_file()
    assert run(images[0], '--save', *saves.split(), 'report').startswith('0 d')


@pytest.mark.parametrize('flip', [False, True])
def test_a_report_of_flips_is_without_scales(config, flip):
    cfg = Config.fromfile(config)
    argv = [str(config), 'a.pth', 'in', '--out', 'out', '--save', 'report']
    apply_options(cfg, parse_args([*argv, *['--flip'] * flip], ''))
    assert ('scale_maps' in cfg.model.test_cfg) == (not flip)


def test_stock_model(run, config, images, tmp_path, read):
    """Classes and confidence; what is of scales is refused by name."""
    stock_config = tmp_path / 'stock.py'
    stock_config.write_text(
        f"""_base_ = {str(config)!r}
head = dict(type='FCNHead', in_channels=16, in_index=1, channels=8,
            num_convs=1, num_classes=19, norm_cfg=dict(type='BN'))
model = dict(type='EncoderDecoder', decode_head=dict(_delete_=True, **head),
             train_cfg=None, test_cfg=dict(_delete_=True, mode='whole'))"""
    )
    cfg = Config.fromfile(stock_config)
    model = init_model(cfg, None, 'cpu')
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    checkpoint = tmp_path / 'stock.pth'
    meta = dict(dataset_meta=dict(classes=tuple('abcdefghijklmnopqrs')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    stock = dict(config=stock_config, checkpoint=checkpoint)
    for options, named in (
        (['--save', 'attention'], '--save attention'),
        (['--scales', '0.5,1'], '--scales'),
        (['--dtype', 'bfloat16'], '--dtype'),
    ):
        error = run(images[0], *options, code=1, **stock)
        assert named in error
        assert 'MultiScaleAverageHead' in error
    assert not (tmp_path / 'out').exists()
    saves = ('classes', 'confidence', 'overlay', 'report')
    run(images[0], '--save', *saves, **stock)
    assert len(np.unique(read(tmp_path / 'out/classes/1.png'))) > 1
    pixels = torch.from_numpy(read(images[0])).permute(2, 0, 1)[None].flip(1)
    inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
    with torch.no_grad():
        meta = dict(img_shape=(64, 128))
        logits = model.encode_decode(inputs, [meta])
    record = json.loads((tmp_path / 'out/scale_maps/1.json').read_text())
    mean = logits.double().softmax(dim=1).amax(dim=1).mean().item()
    assert record['mean_confidence'] == pytest.approx(mean, rel=1e-5)
    # A bar and its numbers are below the picture.
    height, width, _ = read(tmp_path / 'out/confidence/1.jpg').shape
    assert (height >= 64, width) == (True, 128)
    run(images[0], '--flip', '--save', 'report', out='flip', **stock)
    with torch.no_grad():
        mirrored = model.encode_decode(inputs.flip(-1), [meta]).flip(-1)
    record = json.loads((tmp_path / 'flip/scale_maps/1.json').read_text())
    mean = ((logits + mirrored) / 2).softmax(dim=1).amax(dim=1).mean().item()
    assert record['mean_confidence'] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize('flip', [False, True])
def test_confidence_without_logits(
    flip, run, config, trained, images, tmp_path, read
):
    """Of the classes that are written, also with `classes_only`."""
    cfg = Config.fromfile(config)
    model = init_model(cfg, str(trained.checkpoint), 'cpu')
    pixels = torch.from_numpy(read(images[0])).permute(2, 0, 1)[None].flip(1)
    inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
    with torch.no_grad():
        logits = model.encode_decode(inputs)
        if flip:
            mirrored = model.encode_decode(inputs.flip(-1)).flip(-1)
            logits = (logits + mirrored) / 2
    cfg.model.test_cfg.classes_only = True
    predictor = Predictor(
        cfg, str(trained.checkpoint), 'cpu', flip=flip, confidence=True
    )
    made = []
    head = predictor.model.decode_head
    head.predict = lambda *args: made.append(args)
    [result] = predictor([Pipeline(cfg).load(images[0])])
    assert not made
    assert {*result.keys()} == {'pred_sem_seg', 'confidence'}
    torch.testing.assert_close(
        result.confidence.data,
        logits.softmax(dim=1).amax(dim=1),
        rtol=0,
        atol=1e-5,
    )
    run(
        *(images[0], '--save', 'confidence', 'classes'),
        *(['--flip'] if flip else []),
        *('--cfg-options', 'model.test_cfg.classes_only=True'),
    )
    assert (tmp_path / 'out/confidence/1.jpg').is_file()
    found = read(tmp_path / 'out/classes/1.png')
    assert np.mean(found == logits[0].argmax(0).numpy()) > 0.999


def test_label_ids(run, images, tmp_path, read):
    run(images[0], '--save', 'classes')
    run(images[0], '--save', 'classes', '--label-ids', out='ids')
    classes = read(tmp_path / 'out/classes/1.png')
    found = read(tmp_path / 'ids/classes/1.png')
    # cityscapesScripts, helpers/labels.py.
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22]
    ids += [23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert len(np.unique(classes)) > 3
    for train_id, label_id in enumerate(ids):
        assert np.array_equal(classes == train_id, found == label_id)


def test_label_ids_of_other_data_sets(run, images, tmp_path, read):
    options = ['--label-ids', '--cfg-options']
    ade = 'test_dataloader.dataset.type=ADE20KDataset'
    run(images[0], '--save', 'classes', '--label-ids', '--cfg-options', ade)
    run(images[0], '--save', 'classes', out='plain')
    classes = read(tmp_path / 'plain/classes/1.png')
    assert np.array_equal(read(tmp_path / 'out/classes/1.png'), classes + 1)
    other = 'test_dataloader.dataset.type=PascalVOCDataset'
    error = run(images[0], *options, other, code=1, out='other')
    assert 'PascalVOCDataset' in error


def test_batches_of_several_sizes(run, images, tmp_path, read):
    """Larger batches, of one size each, give what single images give."""
    Image.open(images[1]).resize((90, 51)).save(images[1])
    folder = tmp_path / 'images'
    for out, size in (('one', 1), ('two', 2)):
        run(
            *(folder, '--batch-size', size, '--threads', size - 1),
            *('--save', 'classes'),
            out=out,
        )
    for name, shape in (('b/1', (51, 90)), ('a/1', (64, 128))):
        one, two = (
            read(tmp_path / out / f'classes/{name}.png')
            for out in ('one', 'two')
        )
        assert one.shape == shape
        assert np.mean(one == two) > 0.999
