"""Reading of colours; the rest is in tests/test_tools/test_colour_masks.py."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from hmsa_mmseg.datasets.colour_masks import read_colours

COLOURS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
CODES = COLOURS.astype(int) @ [1, 256, 65536]


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'a.png'


def save(path, pixels, **kwargs):
    Image.fromarray(pixels).save(path, **kwargs)


def refused(path):
    with pytest.raises(ValueError, match=r'a\.png: ') as caught:
        read_colours(path)
    return str(caught.value)


def test_rgb(path):
    save(path, COLOURS)
    assert np.array_equal(read_colours(path), CODES)


@pytest.mark.parametrize(('size', 'depth'), [(2, 1), (4, 2), (16, 4), (32, 8)])
def test_palettes_are_colours(path, size, depth):
    image = Image.new('P', (2, 1))
    image.putdata([1, 0])
    image.putpalette([0, 0, 192, 128, 64, 130] * (size // 2))
    image.save(path)
    assert path.read_bytes()[24] == depth
    expected = [[128 + 64 * 256 + 130 * 65536, 192 * 65536]]
    assert read_colours(path).tolist() == expected


def test_alpha_must_be_255(path):
    alpha = np.full((13, 17, 1), 255, np.uint8)
    pixels = np.concatenate([COLOURS, alpha], axis=2)
    save(path, pixels)
    assert np.array_equal(read_colours(path), CODES)
    pixels[2, 3, 3] = 254
    save(path, pixels)
    assert '1 pixels are transparent' in refused(path)


def test_transparent_colours(path):
    save(path, COLOURS, transparency=tuple(COLOURS[2, 3].tolist()))
    assert '1 pixels are transparent' in refused(path)
    image = Image.new('P', (2, 1))
    image.putdata([1, 0])
    image.putpalette([*range(6)])
    image.save(path, transparency=1)
    assert '1 pixels are transparent' in refused(path)


def test_a_jpeg_under_another_name(path):
    save(path, COLOURS, format='JPEG')
    assert 'a JPEG, whose compression changes colours' in refused(path)


def test_class_numbers_are_no_colours(path):
    save(path, COLOURS[..., 0])
    assert 'it is grey; expected colours' in refused(path)


def chunk(kind, content):
    crc = zlib.crc32(kind + content)
    return (
        struct.pack('>I', len(content))
        + kind
        + content
        + crc.to_bytes(4, 'big')
    )


def palette_without(index):
    """A palette PNG of one colour, whose only pixel has another number."""
    return b''.join(
        [
            b'\x89PNG\r\n\x1a\n',
            chunk(b'IHDR', struct.pack('>IIBBBBB', 1, 1, 8, 3, 0, 0, 0)),
            chunk(b'PLTE', bytes(3)),
            chunk(b'IDAT', zlib.compress(bytes([0, index]))),
            chunk(b'IEND', b''),
        ]
    )


def rgb_16():
    return b''.join(
        [
            b'\x89PNG\r\n\x1a\n',
            chunk(b'IHDR', struct.pack('>IIBBBBB', 1, 1, 16, 2, 0, 0, 0)),
            chunk(b'IDAT', zlib.compress(bytes(7))),
            chunk(b'IEND', b''),
        ]
    )


def flipped(content):
    """Flip a bit of the pixels."""
    content = bytearray(content)
    content[content.index(b'IDAT') + 30] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda content: content[:-1], 'cut short or damaged'),
        (lambda content: content[: len(content) // 2], 'cut short'),
        (lambda content: content[:20], 'cut short'),
        (lambda content: b'', 'no PNG; expected one'),
        (lambda content: b'GIF89a' + content, 'no PNG; expected one'),
        (flipped, 'cut short or damaged'),
        (lambda content: palette_without(3), 'number 3'),
        (lambda content: rgb_16(), '16 bits a channel; expected 8'),
    ],
)
def test_damaged_and_other_files(path, damage, message):
    save(path, COLOURS)
    path.write_bytes(damage(path.read_bytes()))
    assert message in refused(path)
