"""Whole configs as text."""

import copy
import subprocess
import sys

import pytest
from mmengine.config import Config

from hmsa_mmseg.zoo import (
    Conversion,
    NotConvertible,
    convert,
    find_config,
    list_configs,
    writing,
)
from hmsa_mmseg.zoo.layout import KEPT, config_text, left_out
from hmsa_mmseg.zoo.naming import config_name
from hmsa_mmseg.zoo.writing import read_zoo_config, source_of, write_config

FCN = 'fcn_r18-d8_4xb2-80k_cityscapes-769x769'
# Odd ones: a data set of several parts, layers' own rates, AMP, own imports.
NAMES = (
    FCN,
    'unet-s5-d16_pspnet_4xb4-40k_drive-64x64',
    'beit-base_upernet_8xb2-160k_ade20k-640x640',
    'ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
    'fpn_poolformer_s12_8xb4-40k_ade20k-512x512',
    'swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256',
    'voc',
)


@pytest.mark.parametrize('name', NAMES)
def test_reads_back_as_it_was(name, converted, tmp_path):
    conversion = converted(name)
    path = tmp_path / 'config.py'
    text = write_config(conversion, path, ['A header.'])
    assert path.read_text() == text
    assert [*tmp_path.iterdir()] == [path]
    found = Config.fromfile(path, import_custom_modules=False)
    # No base files, and nothing but what counts.
    assert '_base_ =' not in text
    before, after = conversion.cfg.to_dict(), found.to_dict()
    for key in KEPT:
        if key in before:
            assert repr(after[key]) == repr(before[key])
    assert all(
        len(line) < 80 for line in text.splitlines() if 'http' not in line
    )


def test_what_a_reader_finds(converted):
    conversion = converted(FCN)
    text = config_text(
        conversion.cfg, ['First. ' * 20, 'Last.'], conversion.changes
    )
    head, *_ = text.split('\n\n')
    assert head.startswith('# First. First.')
    assert head.endswith('#\n# Last.')
    order = [
        'custom_imports = ',
        '# ---- Model ----',
        'norm_cfg = dict(',
        'model = dict(',
        '# ---- Data ----',
        'train_pipeline = [',
        'train_dataloader = dict(',
        'test_dataloader = val_dataloader\n',
        '# ---- Schedule ----',
        'optim_wrapper = dict(',
        '# ---- Runtime ----',
        'load_from = None',
    ]
    places = [text.index(one) for one in order]
    assert places == sorted(places)
    assert 'norm_cfg=norm_cfg' in text
    assert 'pipeline=train_pipeline' in text
    assert '    # Was EncoderDecoder.\n    type=' in text
    assert text.count("dict(type='SyncBN'") == 1
    dropped = left_out(conversion.cfg, text)
    assert 'optimizer' in dropped
    assert 'model' not in dropped
    assert 'crop_size' not in dropped


def test_a_comment_on_what_is_gone_stands_above_its_holder(converted):
    cfg = converted(FCN).cfg
    text = config_text(cfg, [], {'model.backbone.old.part': 'was left out'})
    assert '    # Old.part: was left out.\n    backbone=' in text


def test_a_stale_variable_is_not_used(converted):
    """What counts is what the loaders hold."""
    cfg = copy.deepcopy(converted(FCN).cfg)
    cfg.train_pipeline = [dict(type='Stale')]
    cfg.crop_size = (1, 1)
    # mmengine's Runner reads the model's.
    cfg.data_preprocessor = dict(type='Stale')
    text = config_text(cfg, [], {})
    assert 'Stale' not in text
    assert 'crop_size = (1, 1)' not in text


def test_faults_leave_the_file_as_it_was(converted, tmp_path, monkeypatch):
    path = tmp_path / 'config.py'
    path.write_text('old = 1\n')
    cfg = copy.deepcopy(converted(FCN).cfg)
    cfg.model.backbone.depth = {18}
    with pytest.raises(TypeError, match='of type set cannot be written'):
        write_config(Conversion(cfg, {}), path, [])
    monkeypatch.setattr(
        writing, 'config_text', lambda *_: "model = dict(type='Other')\n"
    )
    with pytest.raises(RuntimeError, match='custom_imports would be written'):
        write_config(converted(FCN), path, [])
    assert path.read_text() == 'old = 1\n'
    assert [*tmp_path.iterdir()] == [path]


def test_source_and_unreadable_configs(tmp_path):
    found = source_of(find_config(FCN))
    assert found.startswith(f'fcn/{FCN}.py of ')
    path = tmp_path / 'own.py'
    assert source_of(path) == 'own.py'
    path.write_text('model = dict(\n')
    with pytest.raises(ValueError, match=r'own\.py cannot be read as a'):
        read_zoo_config(path)


@pytest.mark.slow
def test_every_config_of_the_zoo(tmp_path):
    """Each is written, read back by the writer, and has a name of its own."""
    names = {}
    for path in list_configs():
        try:
            conversion = convert(read_zoo_config(path))
        except NotConvertible:
            continue
        name = config_name(path.stem)
        assert name not in names, (path, names[name])
        names[name] = path
        write_config(conversion, tmp_path / f'{name}.py', [])
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'ruff', 'format', '--check', '--isolated'),
            *('--line-length', '79', '--config'),
            *("format.quote-style='single'", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
