import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from hmsa_mmseg.datasets.png_files import encode_grey, is_intact, read_header


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 20, (31, 50), np.uint8)


@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (31, 1), (31, 50)])
def test_png_is_read_by_others(tmp_path, shape, pixels):
    path = tmp_path / 'a.png'
    pixels = pixels[: shape[0], : shape[1]]
    text = {'autolabel-identity': 'abc', 'autolabel-mode': 'slide'}
    path.write_bytes(encode_grey(pixels, text))
    assert np.array_equal(cv2.imread(str(path), -1), pixels)
    with Image.open(path) as image:
        assert image.mode == 'L'
        assert np.array_equal(image, pixels)
    header = read_header(path)
    assert header == (shape, text)
    assert is_intact(path.read_bytes())


def test_png_is_the_same_each_time(pixels):
    assert encode_grey(pixels) == encode_grey(pixels.copy('F'))


def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack('>I4s', len(data), kind) + data + struct.pack('>I', crc)


def test_what_is_no_whole_grey_png(tmp_path, pixels):
    path = tmp_path / 'a.png'
    whole = encode_grey(pixels, {'key': 'value'})
    for cut in (0, 7, 20, 32, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_header(path) is None
    damaged = bytearray(whole)
    damaged[20] ^= 1  # the width
    path.write_bytes(damaged)
    assert read_header(path) is None
    path.write_bytes(whole[:33] + chunk(b'tEXt', b'x' * 2**17) + whole[33:])
    assert read_header(path) is None
    for mode in ('RGB', 'LA', 'P', '1', 'I;16'):
        Image.new(mode, (5, 5)).save(path)
        assert read_header(path) is None
    Image.fromarray(pixels).save(path, format='JPEG')
    assert read_header(path) is None
    assert read_header(tmp_path / 'none.png') is None
    assert read_header(tmp_path) is None


def test_a_flipped_bit(pixels):
    content = bytearray(encode_grey(pixels))
    content[len(content) // 2] ^= 8
    assert not is_intact(bytes(content))
    assert not is_intact(bytes(content[:50]))
