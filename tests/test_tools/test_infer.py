"""tools/infer.py on images: same results as test.py, names, resume, faults."""

import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import init_model
from PIL import Image

TOOLS = Path(__file__).parents[2] / 'tools'
# The tools are scripts, which find their modules in their own folder.
sys.path.insert(0, str(TOOLS))

import infer  # noqa: E402
from inferring.errors import InferError  # noqa: E402
from inferring.inputs import IMAGE_SUFFIXES, find_items  # noqa: E402
from inferring.predicting import Predictor  # noqa: E402

# Its data set is not on the disk.
CONFIG = Path(__file__).with_name('tiny_cityscapes.py')
CLASSES = 'model.test_cfg.classes_only=True'
PIPELINE = 'test_dataloader.dataset.pipeline.0.type'
FORK = multiprocessing.get_context('fork')


@pytest.fixture
def one_thread():
    """Round as the stock tools' subprocesses do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(trained, tmp_path, capsys):
    """Return a function that runs the tool, in `tmp_path/out`."""

    def run(*args, code=0, out='out', config=CONFIG, checkpoint=None):
        argv = [config, checkpoint or trained.checkpoint, *args]
        argv[2:2] = ['--device', 'cpu', '--out', tmp_path / out]
        found = infer.main([str(arg) for arg in argv])
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured.err if code else captured.out

    return run


@pytest.fixture
def images(tmp_path, val_images):
    """Three images, two of one name in different folders."""
    folder = tmp_path / 'images'
    paths = [folder / 'a/1.png', folder / 'b/1.jpg', folder / 'top.png']
    for path, source in zip(paths, val_images):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).save(path)
    return paths


def read(path):
    return np.array(Image.open(path))


def tree(folder):
    """Content of all files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_classes_are_those_of_test_py(
    run, run_tool, config_file, trained, val_images, tmp_path, one_thread
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


def test_flip_scales_and_slide(run, trained, images, tmp_path, one_thread):
    """Against plain calls of the model, averaged here."""
    cfg = Config.fromfile(CONFIG)
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


def test_everything_that_can_be_saved(run, images, tmp_path):
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


def test_stock_model(run, tmp_path, images):
    """Classes and confidence; what is of scales is refused by name."""
    config = tmp_path / 'stock.py'
    config.write_text(
        f"""_base_ = {str(CONFIG)!r}
head = dict(type='FCNHead', in_channels=16, in_index=1, channels=8,
            num_convs=1, num_classes=19, norm_cfg=dict(type='BN'))
model = dict(type='EncoderDecoder', decode_head=dict(_delete_=True, **head),
             train_cfg=None, test_cfg=dict(_delete_=True, mode='whole'))"""
    )
    cfg = Config.fromfile(config)
    model = init_model(cfg, None, 'cpu')
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    checkpoint = tmp_path / 'stock.pth'
    meta = dict(dataset_meta=dict(classes=tuple('abcdefghijklmnopqrs')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    stock = dict(config=config, checkpoint=checkpoint)
    for options, named in (
        (['--save', 'attention'], '--save attention'),
        (['--scales', '0.5,1'], '--scales'),
        (['--memory-budget', '1e9'], '--memory-budget'),
    ):
        error = run(images[0], *options, code=1, **stock)
        assert named in error
        assert 'MultiScaleAverageHead' in error
    assert not (tmp_path / 'out').exists()
    saves = ('classes', 'confidence', 'overlay', 'report')
    run(images[0], '--save', *saves, **stock)
    assert len(np.unique(read(tmp_path / 'out/classes/1.png'))) > 1
    # A bar and its numbers are below the picture.
    height, width, _ = read(tmp_path / 'out/confidence/1.jpg').shape
    assert (height >= 64, width) == (True, 128)
    run(images[0], '--flip', out='flip', **stock)


def test_label_ids(run, images, tmp_path):
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


def test_label_ids_of_other_data_sets(run, images, tmp_path):
    options = ['--label-ids', '--cfg-options']
    ade = 'test_dataloader.dataset.type=ADE20KDataset'
    run(images[0], '--save', 'classes', '--label-ids', '--cfg-options', ade)
    run(images[0], '--save', 'classes', out='plain')
    classes = read(tmp_path / 'plain/classes/1.png')
    assert np.array_equal(read(tmp_path / 'out/classes/1.png'), classes + 1)
    other = 'test_dataloader.dataset.type=PascalVOCDataset'
    error = run(images[0], *options, other, code=1, out='other')
    assert 'PascalVOCDataset' in error


def test_batches_of_several_sizes(run, images, tmp_path):
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


def test_names(images, tmp_path):
    folder = tmp_path / 'images'
    assert [i.name for i in find_items([str(folder)], 'out')] == [
        *('a/1', 'b/1', 'top')
    ]
    listed = tmp_path / 'lists/some.txt'
    listed.parent.mkdir()
    listed.write_text(f'../images/a/1.png\n\n{folder}/b/1.jpg\n')
    assert [i.name for i in find_items([str(listed)], 'out')] == ['a/1', 'b/1']
    # A file that is given twice is one.
    twice = [str(folder), str(images[2]), str(images[2])]
    assert len(find_items(twice, 'out')) == 3
    # Results of an earlier run beside the images.
    (folder / 'overlay').mkdir()
    Image.open(images[0]).save(folder / 'overlay/1.png')
    assert len(find_items([str(folder)], folder)) == 3
    assert len(find_items([str(folder)], 'out')) == 4
    upper = folder / 'UPPER.JPG'
    Image.open(images[0]).save(upper)
    assert find_items([str(upper)], 'out')[0].name == 'UPPER'


@pytest.mark.parametrize(
    ('names', 'named'),
    [
        (['images/a', 'images/b'], 'named 1'),
        (['images/no.png'], 'no file'),
        (['images/text.md'], 'no image or video'),
        (['empty'], 'no image or video'),
        (['empty.txt'], 'empty'),
        (['clash'], 'in one folder, clip'),
    ],
)
def test_inputs_that_make_no_sense(images, tmp_path, names, named):
    (tmp_path / 'images/text.md').touch()
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty.txt').touch()
    (tmp_path / 'clash/clip').mkdir(parents=True)
    (tmp_path / 'clash/clip.mp4').touch()
    (tmp_path / 'clash/clip/1.png').touch()
    with pytest.raises(InferError, match=named):
        find_items([str(tmp_path / name) for name in names], 'out')


def test_goes_on(run, images, tmp_path, monkeypatch):
    """What is finished, whole and of the same settings is not done again."""
    predicted = []
    call = Predictor.__call__

    def counting(self, batch):
        predicted.extend(Path(i.data_sample.img_path).name for i in batch)
        return call(self, batch)

    monkeypatch.setattr(Predictor, '__call__', counting)

    def again(*args, **kwargs):
        predicted.clear()
        run(tmp_path / 'images', '--save', 'classes', *args, **kwargs)
        return predicted

    out = tmp_path / 'out'
    assert again('--limit', '2') == ['1.png', '1.jpg']
    assert again() == ['top.png']
    assert again() == []
    (out / 'classes/a/1.png').unlink()
    assert again() == ['1.png']
    (out / 'finished/top.json').write_text('{')
    assert again() == ['top.png']
    Image.open(images[0]).save(images[2])  # another image
    assert again() == ['top.png']
    # Something more is saved; what there is stays good.
    assert again('color') == ['1.png', '1.jpg', 'top.png']
    assert again() == []
    # Other settings.
    before = tree(out)
    assert again('--flip', code=1) == []
    assert again('--scales', '0.5,1', code=1) == []
    assert tree(out) == before
    assert len(again('--flip', '--overwrite')) == 3
    assert again('--flip') == []
    assert len(again('--flip', '--overwrite')) == 3
    # With the color of before, which is of other settings now.
    assert len(again('color', '--flip')) == 3


def test_foreign_folders(run, images, tmp_path):
    mine = tmp_path / 'out/classes/1.png'
    mine.parent.mkdir(parents=True)
    mine.write_text('mine')
    error = run(images[0], code=1)
    assert 'was not written by this program' in error
    assert mine.read_text() == 'mine'
    run(images[0], '--overwrite')
    (tmp_path / 'out/infer.json').write_text('[]')
    assert 'infer.json is damaged' in run(images[0], code=1)


def fork(argv, prepare=None, **env):
    """Start the tool in a copy of this process."""

    def child():
        # Threads of this process do not exist in its copy.
        torch.set_num_threads(1)
        os.environ.update(env)
        if prepare is not None:
            prepare()
        sys.exit(infer.main([str(arg) for arg in argv]))

    process = FORK.Process(target=child)
    process.start()
    return process


@pytest.mark.parametrize('moment', [1, 2, 4, 5, 9])
def test_killed(run, trained, images, tmp_path, one_thread, moment):
    """A run that is killed goes on to the same files, to the last bit."""
    folder = tmp_path / 'images'
    argv = [CONFIG, trained.checkpoint, folder, '--device', 'cpu']
    replace = os.replace

    def kill_at_moment():
        """When this number of files has been written."""
        left = [moment]

        def replacing(*args):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*args)

        os.replace = replacing

    process = fork([*argv, '--out', tmp_path / 'out'], kill_at_moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    killed = tree(tmp_path / 'out')
    run(folder)
    run(folder, out='whole')
    whole = tree(tmp_path / 'whole')
    assert tree(tmp_path / 'out') == whole
    assert len(whole) == 1 + 3 * 3
    # No part under a name of its own.
    for name, content in killed.items():
        if not Path(name).name.startswith('.'):
            assert content == whole[name]


def test_two_processes(trained, images, tmp_path):
    """They share the files, and end together when one has skipped some."""
    images[1].write_bytes(images[1].read_bytes()[:-500])
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    argv = [CONFIG, trained.checkpoint, tmp_path / 'images', '--device', 'cpu']
    argv += ['--out', tmp_path / 'out', '--on-error', 'skip']
    processes = [
        fork(
            argv,
            RANK=str(rank),
            WORLD_SIZE='2',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )
        for rank in range(2)
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [1, 1]
    assert sorted(
        path.relative_to(tmp_path / 'out/classes').as_posix()
        for path in (tmp_path / 'out/classes').rglob('*.png')
    ) == ['a/1.png', 'top.png']


def test_a_share_of_the_files(run, images, tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, expected in ((1, ['b/1']), (0, ['a/1', 'b/1', 'top'])):
        monkeypatch.setenv('RANK', str(rank))
        run(tmp_path / 'images', '--save', 'classes')
        found = sorted(
            path.relative_to(tmp_path / 'out/classes').with_suffix('')
            for path in (tmp_path / 'out/classes').rglob('*.png')
        )
        assert [path.as_posix() for path in found] == expected
    monkeypatch.setenv('RANK', '2')
    assert "RANK='2'" in run(tmp_path / 'images', code=1)


def test_pixels_of_all_kinds(run, val_images, tmp_path):
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


def test_sizes(run, images, tmp_path):
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
        (
            ['--save', 'weights', '--memory-budget', '1e9'],
            'model.test_cfg.memory_budget',
        ),
        (['--scales', '1,1'], 'model.test_cfg.scales'),
        (['--device', 'moon'], '--device moon'),
        (['--save', 'confidence', '--cfg-options', CLASSES], CLASSES),
        (
            ['--cfg-options', f'{PIPELINE}=PackSegInputs'],
            'expected LoadImageFromFile',
        ),
    ],
)
def test_options_that_do_not_go_together(run, images, options, named):
    assert named in run(images[0], *options, code=1)
