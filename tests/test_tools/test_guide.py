"""docs/custom_dataset.md, followed word for word on generated data."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / 'docs' / 'custom_dataset.md'
BLOCK = re.compile(
    r'(?:<!-- (?P<note>[^>]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```', re.S
)


def write_data(folder):
    """Images of road, trees and sky, in the layout of the guide."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 3)):
        for kind in ('images', 'masks'):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            mask = np.full((96, 192), 2, np.uint8)
            mask[50:] = 0
            x = int(rng.integers(10, 140))
            mask[20:60, x : x + 40] = 1
            mask[:2] = 255
            colors = np.array([[90, 60, 90], [40, 140, 60], [200, 150, 90]])
            image = colors[np.minimum(mask, 2)]
            image = image + rng.integers(-20, 20, image.shape)
            suffix = '.jpg' if i else '.png'
            name = f'{split}_{i}'
            cv2.imwrite(
                str(folder / 'images' / split / (name + suffix)),
                image.astype(np.uint8),
            )
            path = folder / 'masks' / split / f'{name}.png'
            cv2.imwrite(str(path), mask)


@pytest.fixture
def followed(tmp_path):
    """The folder after all commands, and what they printed."""
    work = tmp_path
    write_data(work / 'my_data')
    commands = []
    for block in BLOCK.finditer(GUIDE.read_text()):
        note = block['note'] or ''
        if note.startswith('file: '):
            (work / note[6:].strip()).write_text(block['text'])
        elif block['kind'] == 'shell' and note != 'not run':
            commands.append(block['text'])
    binaries = work / 'bin'
    binaries.mkdir()
    hmsa = binaries / 'hmsa'
    python = shlex.quote(sys.executable)
    hmsa.write_text(f'#!/bin/sh\nexec {python} -m hmsa_mmseg "$@"\n')
    hmsa.chmod(0o755)
    run = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', '\n'.join(commands)],
        cwd=work,
        env={
            **os.environ,
            'PATH': f'{binaries}:{os.environ["PATH"]}',
            'PYTHONPATH': str(ROOT),
            'CUDA_VISIBLE_DEVICES': '',
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return work, run.stdout + run.stderr, '\n'.join(commands)


def test_what_the_guide_promises(followed):
    work, printed, commands = followed
    for command in ('from-zoo', 'browse', 'train', 'test', 'report', 'infer'):
        assert f'hmsa {command} ' in commands
    # A model is trained and scored.
    assert (work / 'work' / 'iter_12.pth').is_file()
    for name in ('road', 'tree', 'sky'):
        assert re.search(rf'\| +{name} +\|', printed)
    assert 'mIoU' in printed
    assert len(list((work / 'browse').rglob('*.*'))) >= 4
    page = (work / 'show' / 'report.html').read_text()
    assert all(f'val_{i}' in page for i in range(3))
    pictures = {path.stem for path in (work / 'show').rglob('val_1/*')}
    assert {'overlay', 'attn_0.5', 'weight_2', 'winning_scale'} <= pictures
    compared = (work / 'comparison.html').read_text()
    assert all(name in compared for name in ('single', 'zoo'))
    config = (work / 'zoo_config.py').read_text()
    assert "type='EncoderDecoder'" in config
    assert (work / 'work_zoo' / 'iter_12.pth').is_file()
    # Predictions of infer are those of test.
    for i in range(3):
        (path,) = (work / 'predictions').rglob(f'*val_{i}*.png')
        found, expected = (
            cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            for file in (path, work / 'classes' / f'val_{i}.png')
        )
        np.testing.assert_array_equal(found, expected)
