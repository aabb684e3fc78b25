"""Masks of colours and grey PNG files: reading, damage.

The tool for masks is tested in tests/test_tools/test_colour_masks.py.
"""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from hmsa_mmseg.datasets.class_names import read_classes
from hmsa_mmseg.datasets.colour_masks import read_colours
from hmsa_mmseg.datasets.png_files import encode_grey, is_intact, read_header

COLOURS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
CODES = COLOURS.astype(int) @ [1, 256, 65536]
GREY = COLOURS[..., 0] % 20


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'a.png'


def save(path, pixels, **kwargs):
    Image.fromarray(pixels).save(path, **kwargs)


def refused(path):
    with pytest.raises(ValueError, match=r'a\.png: ') as caught:
        read_colours(path)
    return str(caught.value)


@pytest.mark.fault(
    'a colour mask with transparent pixels',
    'refused, with their number',
)
def test_rgb_and_rgba(path):
    save(path, COLOURS)
    assert np.array_equal(read_colours(path), CODES)
    alpha = np.full((13, 17, 1), 255, np.uint8)
    pixels = np.concatenate([COLOURS, alpha], axis=2)
    save(path, pixels)
    assert np.array_equal(read_colours(path), CODES)
    pixels[2, 3, 3] = 254
    save(path, pixels)
    assert '1 pixels are transparent' in refused(path)
    save(path, COLOURS, transparency=tuple(COLOURS[2, 3].tolist()))
    assert '1 pixels are transparent' in refused(path)


@pytest.mark.parametrize(('size', 'depth'), [(2, 1), (32, 8)])
def test_palettes_are_colours(path, size, depth):
    image = Image.new('P', (2, 1))
    image.putdata([1, 0])
    image.putpalette([0, 0, 192, 128, 64, 130] * (size // 2))
    image.save(path)
    assert path.read_bytes()[24] == depth
    expected = [[128 + 64 * 256 + 130 * 65536, 192 * 65536]]
    assert read_colours(path).tolist() == expected
    image.save(path, transparency=1)
    assert '1 pixels are transparent' in refused(path)


def chunk(kind, content):
    crc = zlib.crc32(kind + content)
    start = struct.pack('>I4s', len(content), kind)
    return start + content + struct.pack('>I', crc)


def png(depth, kind, *chunks):
    """A PNG file of one pixel."""
    head = struct.pack('>IIBBBBB', 1, 1, depth, kind, 0, 0, 0)
    parts = [chunk(b'IHDR', head), *chunks, chunk(b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


# A palette of one colour, and a pixel with another number.
PALETTE = png(
    *(8, 3, chunk(b'PLTE', bytes(3))),
    chunk(b'IDAT', zlib.compress(bytes([0, 3]))),
)
RGB_16 = png(16, 2, chunk(b'IDAT', zlib.compress(bytes(7))))


def flipped(content):
    """Flip a bit of the pixels."""
    content = bytearray(content)
    content[content.index(b'IDAT') + 30] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda content: content[:-1], 'cut short or damaged'),
        (lambda content: b'', 'no PNG; expected one'),
        (lambda content: b'GIF89a' + content, 'no PNG; expected one'),
        (flipped, 'cut short or damaged'),
        (lambda content: PALETTE, 'number 3'),
        (lambda content: RGB_16, '16 bits a channel; expected 8'),
        (lambda content: encode_grey(GREY), 'it is grey; expected colours'),
    ],
)
@pytest.mark.fault(
    'a colour mask that is cut, flipped, JPEG, grey or of 16 bits',
    'refused, with its path and kind',
)
def test_damaged_and_other_masks(path, damage, message):
    save(path, COLOURS)
    path.write_bytes(damage(path.read_bytes()))
    assert message in refused(path)
    save(path, COLOURS, format='JPEG')
    assert 'a JPEG, whose compression changes colours' in refused(path)


def test_masks_that_are_too_large(path, monkeypatch):
    save(path, COLOURS)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1)
    assert 'too large a mask' in refused(path)


# --- grey files


@pytest.mark.parametrize('shape', [(1, 1), (13, 17)])
def test_grey_files_are_read_by_others(path, shape):
    pixels = GREY[: shape[0], : shape[1]]
    text = {'autolabel-identity': 'abc', 'autolabel-mode': 'slide'}
    path.write_bytes(encode_grey(pixels, text))
    assert np.array_equal(cv2.imread(str(path), -1), pixels)
    with Image.open(path) as image:
        assert image.mode == 'L'
    assert read_header(path) == (shape, text)
    assert is_intact(path.read_bytes())
    # The same each time.
    assert encode_grey(pixels.copy('F'), text) == path.read_bytes()


def test_what_is_no_whole_grey_file(tmp_path, path):
    whole = encode_grey(GREY, {'key': 'value'})
    damaged = bytearray(whole)
    damaged[20] ^= 1  # the width
    long_text = whole[:33] + chunk(b'tEXt', b'x' * 2**17) + whole[33:]
    cuts = (0, 7, 20, 32, 60, len(whole) // 2, len(whole) - 1)
    for content in (*(whole[:cut] for cut in cuts), damaged, long_text):
        path.write_bytes(content)
        assert read_header(path) is None
    for mode in ('RGB', 'LA', 'P', '1', 'I;16'):
        Image.new(mode, (5, 5)).save(path)
        assert read_header(path) is None
    save(path, GREY, format='JPEG')
    assert read_header(path) is None
    assert read_header(tmp_path / 'none.png') is None
    assert read_header(tmp_path) is None
    assert not is_intact(flipped(whole))
    assert not is_intact(whole[:50])


# --- names of classes, as a user writes them down


def test_classes_are_read(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text('road 128 64 128\n\ntraffic light 250 170 30\n')
    names, palette = read_classes(str(path))
    assert names == ('road', 'traffic light')
    assert palette == [[128, 64, 128], [250, 170, 30]]
    path.write_text('lane 1\nlane 2\n')
    assert read_classes(str(path)) == (('lane 1', 'lane 2'), None)
    assert read_classes(' a, b ') == (('a', 'b'), None)
    for text, message in (
        ('road\n', 'two or more'),
        ('road\nroad\n', 'different'),
        ('road 1 2 3\ntree\n', '1 of 2 classes have a colour'),
        ('road 1 2 300\ntree 1 2 3\n', '0 to 255'),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_classes(str(path))
    with pytest.raises(ValueError, match=r'none\.txt does not exist'):
        read_classes('none.txt')
