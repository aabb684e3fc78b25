"""Files of auto-labels: names, parts, PNG, lines."""

import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from hmsa_mmseg.autolabel import part_files
from hmsa_mmseg.autolabel.json_lines import (
    LineWriter,
    read_lines,
    write_lines,
)
from hmsa_mmseg.autolabel.layout import (
    label_file,
    prob_file,
    prob_of_label,
    round_folder,
    shard_file,
)
from hmsa_mmseg.autolabel.pairs import Hashes, PairFiles
from hmsa_mmseg.autolabel.part_files import (
    part_file,
    remove_stale_parts,
    whole_file,
)
from hmsa_mmseg.autolabel.png_files import (
    encode_grey,
    is_intact,
    read_header,
)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 20, (31, 50), np.uint8)


def test_names():
    assert label_file('a/b/1') == 'a/b/1.png'
    assert prob_file('a/b/1') == 'a/b/1_prob.png'
    assert label_file('a/b/1', 'authors-flat') == '1.png'
    assert prob_of_label('x/a.b.png') == 'x/a.b_prob.png'
    assert round_folder('out', 3).as_posix() == 'out/round_3'
    assert round_folder('out', None).as_posix() == 'out'
    assert shard_file('manifest.jsonl', 1, 3) == 'manifest.1-of-3.jsonl'
    with pytest.raises(ValueError, match="layout='flat'"):
        label_file('a', 'flat')


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


def test_parts_have_one_owner(tmp_path):
    path = tmp_path / 'a.png'
    part = part_file(path)
    assert part.parent == tmp_path
    assert f'.{os.getpid()}.part' in part.name
    assert part_files._HOST in part.name
    assert part not in {*tmp_path.glob('*.png')}
    with whole_file(path) as file:
        file.write(b'1')
        assert part.exists()
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_parts_of_long_names(tmp_path):
    name = 'x' * 246 + '_prob.png'
    with whole_file(tmp_path / name) as file:
        file.write(b'1')
        (part,) = tmp_path.glob('.*.part')
    dead = tmp_path / part.name.replace(str(os.getpid()), '99999999')
    dead.touch()
    assert remove_stale_parts([tmp_path / name]) == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_stale_parts(tmp_path):
    """Those of dead processes and other machines, of own files alone."""
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    host, running = part_files._HOST, os.getppid()
    kept = [
        f'.a.png.{host}.{running}.part',
        f'.other.png.{host}.{ended.pid}.part',
        '.a.png.part',
        'a.png',
    ]
    stale = [
        f'.a.png.{host}.{ended.pid}.part',
        f'.a.png.{host}.{os.getpid()}.part',  # a number that comes again
        f'.a.png.another-machine.{running}.part',
        f'.a.png.{ended.pid}.part',  # as atomic_file names them
        f'.b.c.json.{host}.{ended.pid}.part',
    ]
    for name in (*kept, *stale):
        (tmp_path / name).touch()
    own = [tmp_path / 'a.png', tmp_path / 'b.c.json', tmp_path / 'no/x.png']
    assert remove_stale_parts(own) == len(stale)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


def test_parts_of_files_that_all_machines_write(tmp_path):
    """What another one has just begun stays, what it has left does not."""
    new, old = (
        tmp_path / f'.meta.json.another-machine.{pid}.part' for pid in (1, 2)
    )
    for part in (new, old):
        part.touch()
    os.utime(old, (1, 1))
    assert remove_stale_parts([tmp_path / 'meta.json'], shared=True) == 1
    assert [*tmp_path.iterdir()] == [new]


def test_a_pair(tmp_path, pixels):
    files = PairFiles(tmp_path)
    assert files.find('a/1') is None
    hashes = files.write('a/1', pixels, pixels + 1, 'me')
    assert files.find('a/1') == ((31, 50), 'me', 'whole', None)
    assert files.hashes('a/1') == hashes
    assert hashes.label != hashes.prob
    files.write('a/2', pixels, pixels, 'me', 'cpu')
    assert files.find('a/2').mode == 'cpu'
    files.write('a/2', pixels, pixels, 'me', image_bytes=1234)
    assert files.find('a/2') == ((31, 50), 'me', 'whole', 1234)
    assert files.bytes_on_disk('a/1') == 8192
    files.prob('a/1').unlink()
    assert files.find('a/1') is None
    bare = PairFiles(tmp_path, has_prob=False)
    assert bare.find('a/1') == ((31, 50), 'me', 'whole', None)
    assert bare.hashes('a/1') == Hashes(hashes.label, None)
    files.remove('a/1')
    assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == [
        *('2.png', '2_prob.png')
    ]


def test_order_of_writing(tmp_path, pixels, monkeypatch):
    """An old label goes first, then confidence comes, then the label."""
    files = PairFiles(tmp_path)
    files.write('1', pixels, pixels, 'old')
    seen = []
    replace = os.replace

    def replacing(part, path):
        seen.append(sorted(p.name for p in tmp_path.glob('*.png')))
        replace(part, path)
        seen.append(sorted(p.name for p in tmp_path.glob('*.png')))

    monkeypatch.setattr(os, 'replace', replacing)
    files.write('1', pixels, pixels, 'new')
    assert seen == [
        [],
        ['1_prob.png'],
        ['1_prob.png'],
        ['1.png', '1_prob.png'],
    ]


def test_a_part_that_was_taken_away(tmp_path, pixels, monkeypatch):
    """By a process on another machine that does the same."""
    replace, left = os.replace, [1]

    def replacing(part, path):
        if left and left.pop():
            part.unlink()
        replace(part, path)

    monkeypatch.setattr(os, 'replace', replacing)
    files = PairFiles(tmp_path)
    files.write('1', pixels, pixels, 'me')
    assert files.find('1') is not None


def test_lines(tmp_path):
    path = tmp_path / 'new/lines.jsonl'
    writer = LineWriter(path)
    writer.add(dict(name='a', value=1))
    writer.add(dict(name='b\nü\udcff'))
    writer.close()
    writer.close()
    assert read_lines(path) == [
        dict(name='a', value=1),
        dict(name='b\nü\udcff'),
    ]
    assert path.read_bytes().count(b'\n') == 2
    # Torn by a kill; the next line is not lost with it.
    path.write_bytes(path.read_bytes() + b'{"name": "c", "val')
    writer = LineWriter(path)
    writer.add(dict(name='d'))
    writer.close()
    assert [line['name'] for line in read_lines(path)] == [
        *('a', 'b\nü\udcff', 'd')
    ]
    path.write_bytes(b'[1]\n{"other": 1}\n{"name": 3}\n\xff\n')
    assert read_lines(path) == []
    assert read_lines(tmp_path / 'none') == []
    write_lines(path, [dict(name='x')])
    assert path.read_text() == '{"name": "x"}\n'
