"""Images that are not labelled, but listed."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from autolabelling import labelling
from PIL import Image

from hmsa_mmseg.prediction.predicting import Predictor

pytestmark = pytest.mark.usefixtures('quick')


def as_grey(image):
    return image.convert('L')


def huge(path):
    """A PNG file whose head promises more pixels than any reader takes."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return (
            struct.pack('>I4s', len(data), kind)
            + data
            + struct.pack('>I', crc)
        )

    head = struct.pack('>IIBBBBB', 50_000, 50_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', head)
        + chunk(b'IDAT', b'x')
        + chunk(b'IEND', b'')
    )


def as_deep(image):
    return Image.fromarray(np.array(image.convert('L')).astype('u2') * 257)


#: Reason: the bytes of a file, from those of a good one and its pixels.
FAULTS = {
    'undecodable': lambda path, image: path.write_bytes(b'no image at all'),
    'truncated': lambda path, image: path.write_bytes(
        path.read_bytes()[:-200]
    ),
    'empty': lambda path, image: path.write_bytes(b''),
    'grey': lambda path, image: as_grey(image).save(path),
    'alpha': lambda path, image: image.convert('RGBA').save(path),
    '16-bit': lambda path, image: as_deep(image).save(path),
    'constant': lambda path, image: Image.new('RGB', image.size).save(path),
}
# A grey image of 16 bits is both.
ALLOWED = {'grey': [], 'alpha': [], 'constant': [], '16-bit': ['grey']}


@pytest.fixture
def spoil(images):
    """Return a function that spoils one of the images."""

    def spoil(reason, path=None):
        path = path or images / 'b/0.png'
        with Image.open(path) as file:
            image = file.convert('RGB')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            FAULTS[reason](path, image)
        return path

    return spoil


def test_each_fault(run, spoil, images, tmp_path, lines, save, tree):
    """All in one run: no output, a line, and the others are done."""
    paths = {
        reason: spoil(reason, save(images / f'bad/{reason}.png', 7))
        for reason in FAULTS
    }
    said = run(code=1)
    failures = lines(tmp_path / 'out/failures.jsonl')
    assert {line['name']: line['reason'] for line in failures} == {
        f'bad/{reason}': reason for reason in FAULTS
    }
    for line in failures:
        assert line['image'] == str(paths[line['reason']])
        assert line['image'] in line['error']
        assert '\n' not in line['error']
    assert '7 images failed' in said
    found = tree(tmp_path / 'out')
    assert not [name for name in found if name.startswith('bad/')]
    assert len([name for name in found if name.endswith('_prob.png')]) == 5


@pytest.mark.parametrize('kind', ALLOWED)
def test_allowed_kinds(run, spoil, tmp_path, lines, kind):
    spoil(kind)
    run('--allow', kind, *ALLOWED[kind])
    assert lines(tmp_path / 'out/failures.jsonl') == []
    assert (tmp_path / 'out/b/0.png').exists()


def test_other_formats(run, images, tmp_path, lines, draw):
    """Kinds are told from the file, not from what loaders make of it."""
    image = Image.fromarray(draw(3))
    deep = np.array(image.convert('L')).astype('u2') * 257
    clear = image.convert('RGBA')
    clear.putalpha(99)
    transparent = image.quantize(16)
    transparent.info['transparency'] = 0
    for name, picture in (
        ('good.jpg', image),
        ('good.bmp', image),
        ('good.webp', image),
        ('good.tif', image),
        ('palette.png', image.quantize(16)),
        ('cmyk.jpg', image.convert('CMYK')),
        ('deep.tif', Image.fromarray(deep)),
        ('grey.jpg', image.convert('L')),
        ('grey.tif', image.convert('L')),
        ('alpha.webp', clear),
        ('transparent.png', transparent),
    ):
        # Names are without suffix.
        stem, suffix = name.split('.')
        path = images / f'kinds/{stem}_{suffix}.{suffix}'
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
    run(code=1)
    found = {
        line['name'][6:]: line['reason']
        for line in lines(tmp_path / 'out/failures.jsonl')
    }
    assert found == dict(
        deep_tif='16-bit',
        grey_jpg='grey',
        grey_tif='grey',
        alpha_webp='alpha',
        transparent_png='alpha',
    )


def test_a_head_that_promises_too_much(run, images, tmp_path, lines):
    huge(images / 'b/0.png')
    run(code=1)
    (line,) = lines(tmp_path / 'out/failures.jsonl')
    assert (line['name'], line['reason']) == ('b/0', 'undecodable')
    assert len(lines(tmp_path / 'out/manifest.jsonl')) == 4


def test_max_errors(run, images, tmp_path, lines):
    for path in images.rglob('*.png'):
        path.write_bytes(b'')
    said = run('--max-errors', '3', '--threads', '0', code=1)
    assert '3 images could not be labelled' in said
    assert '--max-errors above 3' in said
    assert len(lines(tmp_path / 'out/failures.0-of-1.jsonl')) == 3


def failing(monkeypatch, error, when=lambda self: True):
    """Let the model fail for one image."""
    call = Predictor.__call__

    def predict(self, batch):
        if batch[0].data_sample.img_path.endswith('c/2.png') and when(self):
            raise error
        return call(self, batch)

    monkeypatch.setattr(Predictor, '__call__', predict)


# What torch says on a GPU, and on a CPU (c10/core/impl/alloc_cpu.cpp).
MEMORY = [
    torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB'),
    RuntimeError(
        '[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: '
        "can't allocate memory: you tried to allocate 9000000000 bytes."
    ),
]


@pytest.mark.parametrize('error', MEMORY)
def test_out_of_memory(run, monkeypatch, tmp_path, lines, error, predicted):
    """A line with size and scales; scales are never changed."""
    failing(monkeypatch, error)
    run(code=1)
    (line,) = lines(tmp_path / 'out/failures.jsonl')
    assert line['reason'] == 'out-of-memory'
    assert '32x64 at scales 0.5, 1, 2' in line['error']
    assert not (tmp_path / 'out/b/c/2.png').exists()
    assert len(lines(tmp_path / 'out/manifest.jsonl')) == 4


def test_out_of_memory_then_windows(run, monkeypatch, tmp_path, lines, read):
    """The label is that of a run which asks for the same windows."""

    def is_whole(self):
        return self.model.test_cfg.mode == 'whole'

    with monkeypatch.context() as patch:
        failing(patch, MEMORY[0], is_whole)
        run('--oom', 'slide')
    modes = {
        line['name']: line['mode']
        for line in lines(tmp_path / 'out/manifest.jsonl')
    }
    assert modes.pop('b/c/2') == 'slide'
    assert {*modes.values()} == {'whole'}
    # crop_size of the config is (16, 24): no more than half of 32 x 64.
    run('--slide', '16,24', '10,16', out='slide')
    for end in ('', '_prob'):
        found, expected, whole = (
            read(tmp_path / f'{out}/b/c/2{end}.png')
            for out in ('out', 'slide', 'whole')
            if out != 'whole' or run(out='whole')
        )
        assert np.array_equal(found, expected)
        assert not np.array_equal(found, whole)


def test_out_of_memory_then_cpu(run, monkeypatch, tmp_path, lines, read):
    """Once more on the CPU; here that is where it has been."""
    left = [1]

    def first(self):
        left[0] -= 1
        return left[0] >= 0

    with monkeypatch.context() as patch:
        failing(patch, MEMORY[0], first)
        run('--oom', 'cpu')
    found = lines(tmp_path / 'out/manifest.jsonl')
    assert [line['mode'] for line in found] == [
        *('whole', 'whole', 'whole', 'cpu', 'whole')
    ]
    run(out='whole')
    name = 'b/c/2_prob.png'
    assert np.array_equal(
        *(read(tmp_path / out / name) for out in ('out', 'whole'))
    )


def test_out_of_memory_again(run, monkeypatch, tmp_path, lines):
    failing(monkeypatch, MEMORY[0])
    run('--oom', 'slide', code=1)
    (line,) = lines(tmp_path / 'out/failures.jsonl')
    assert line['error'].count('out of memory') == 2
    assert '--oom slide' in line['error']


def test_other_errors_of_the_model(run, monkeypatch, tmp_path, lines):
    failing(monkeypatch, ValueError('too small\nfor this'))
    run('--oom', 'slide', code=1)
    (line,) = lines(tmp_path / 'out/failures.jsonl')
    assert line['reason'] == 'prediction'
    assert line['error'].endswith('32x64: ValueError: too small for this')
    assert not labelling.is_out_of_memory(ValueError('out of memory'))


def test_confidence_that_is_no_number(run, monkeypatch, tmp_path, lines):
    call = Predictor.__call__

    def poisoned(self, batch):
        results = call(self, batch)
        if batch[0].data_sample.img_path.endswith('c/2.png'):
            results[0].confidence.data[0, 3, 3] = torch.nan
        return results

    monkeypatch.setattr(Predictor, '__call__', poisoned)
    run(code=1)
    (line,) = lines(tmp_path / 'out/failures.jsonl')
    assert (line['name'], line['reason']) == ('b/c/2', 'prediction')
    assert not (tmp_path / 'out/b/c/2_prob.png').exists()
