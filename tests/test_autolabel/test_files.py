"""Files of auto-labels: names, pairs, lines."""

import os

import numpy as np
import pytest

from hmsa_mmseg.autolabel.label_store import LineWriter
from hmsa_mmseg.autolabel.meta import write_lines
from hmsa_mmseg.autolabel.pairs import NO_SOURCE, PairFiles
from hmsa_mmseg.datasets.autolabel_files import read_lines
from hmsa_mmseg.prediction.journal import Source


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 20, (31, 50), np.uint8)


def test_a_pair(tmp_path, pixels):
    files = PairFiles(tmp_path)
    assert files.find('a/1') is None
    hashes = files.write('a/1', pixels, pixels + 1, 'me')
    assert files.find('a/1') == ((31, 50), 'me', 'whole', NO_SOURCE)
    assert files.hashes('a/1') == hashes
    assert hashes['label_sha256'] != hashes['prob_sha256']
    source = Source(1234, 'ab')
    files.write('a/2', pixels, pixels, 'me', 'cpu', source=source)
    assert files.find('a/2') == ((31, 50), 'me', 'cpu', source)
    assert files.bytes_on_disk('a/1') == 8192
    files.prob('a/1').unlink()
    assert files.find('a/1') is None
    bare = PairFiles(tmp_path, has_prob=False)
    assert bare.find('a/1') is not None
    assert bare.hashes('a/1') == {**hashes, 'prob_sha256': None}
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
