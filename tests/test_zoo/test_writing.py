"""Written configs are read back as they were."""

import copy

import pytest
from mmengine.config import Config

from hmsa_mmseg.zoo import (
    Conversion,
    NotConvertible,
    convert,
    find_config,
    list_configs,
)
from hmsa_mmseg.zoo.adapting import config_name
from hmsa_mmseg.zoo.writing import (
    differing_keys,
    read_zoo_config,
    write_config,
)

FCN = 'fcn_r18-d8_4xb2-80k_cityscapes-769x769'
# A data set of several parts; layers' own rates; imports of its own.
NAMES = (
    'beit-base_upernet_8xb2-160k_ade20k-640x640',
    'fpn_poolformer_s12_8xb4-40k_ade20k-512x512',
    'swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256',
)


@pytest.fixture(autouse=True)
def plain_layout(monkeypatch):
    """Do without yapf, which takes seconds for a config."""
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode', lambda text, **_: (text, True)
    )


@pytest.mark.parametrize('name', NAMES)
def test_reads_back_as_it_was(name, converted, tmp_path):
    conversion = converted(name)
    path = tmp_path / 'config.py'
    write_config(conversion, path, find_config(name))
    assert [*tmp_path.iterdir()] == [path]
    found = Config.fromfile(path, import_custom_modules=False)
    assert found.to_dict() == conversion.cfg.to_dict()
    # The head of the file says what was changed.
    head = path.read_text().split('\n\n')[0]
    words = ' '.join(head.replace('\n#', '').split())
    assert f'{name}.py of ' in words
    for key, text in conversion.changes.items():
        assert ' '.join(f'- {key}: {text}'.split()) in words
    # What differs from a file is named.
    cfg = copy.deepcopy(conversion.cfg)
    assert differing_keys(cfg, path) == []
    cfg.model.test_cfg.scales = list(cfg.model.test_cfg.scales)
    cfg.train_cfg.max_iters += 1
    assert differing_keys(cfg, path) == ['model', 'train_cfg']


def test_what_cannot_be_written(converted, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text('old = 1\n')
    cfg = copy.deepcopy(converted(FCN).cfg)
    for depth, match in (
        (float('inf'), "name 'inf' is not defined"),
        (object(), 'cannot be read as a config'),
    ):
        cfg.model.backbone.depth = depth
        with pytest.raises(ValueError, match=match):
            write_config(Conversion(cfg, {}), path, path)
        assert path.read_text() == 'old = 1\n'
        assert [*tmp_path.iterdir()] == [path]


def test_unreadable_config(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text('model = dict(\n')
    with pytest.raises(ValueError, match=r'own\.py cannot be read as a'):
        read_zoo_config(path)


@pytest.mark.parametrize(
    ('stem', 'name', 'length'),
    [
        (
            'mae-base_upernet_8xb2-amp-160k_ade20k-512x512',
            'hmsa_mae-base_upernet_8xb2-amp-attn-only-0.08k_ade20k-512x512',
            dict(max_iters=80),
        ),
        (
            'pidnet-s_2xb6-120k_1024x1024-cityscapes',
            'hmsa_pidnet-s_2xb6-attn-only-9e_1024x1024-cityscapes',
            dict(max_epochs=9),
        ),
        ('voc', 'hmsa_voc_attn-only-1k', dict(max_iters=1000)),
    ],
)
def test_names(stem, name, length):
    cfg = Config(dict(train_cfg=length))
    assert config_name(stem, 'attention-only', cfg) == name
    assert config_name(stem, 'multi-scale', cfg) == f'hmsa_{stem}'


@pytest.mark.slow
def test_every_config_of_the_zoo(tmp_path):
    """Each is written, and read back by the writer."""
    count = 0
    for path in list_configs():
        try:
            conversion = convert(read_zoo_config(path))
        except NotConvertible:
            continue
        write_config(conversion, tmp_path / 'config.py', path)
        count += 1
    assert count > 600
