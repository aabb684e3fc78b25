"""Metadata of folders of auto-labels."""

import copy
import os

import pytest

from hmsa_mmseg.autolabel.meta import (
    differences,
    identities_in,
    identity_of,
    link_to,
    mixed_with,
    read_meta,
    write_meta,
)


@pytest.fixture
def meta():
    return dict(
        version=1,
        teacher=dict(
            checkpoint='a.pth',
            checkpoint_sha256='1',
            config='a.py',
            config_sha256='2',
        ),
        settings=dict(scales=[0.5, 1.0], flip=False, palette=[[0, 0, 0]]),
        round=None,
        previous=None,
        trained_on=None,
        code_version='1',
        images=dict(source='images', count=3),
    )


def changed(meta, *keys, value='other'):
    meta = copy.deepcopy(meta)
    inner = meta
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return meta


@pytest.mark.parametrize(
    ('keys', 'is_identity'),
    [
        (('teacher', 'checkpoint_sha256'), True),
        (('teacher', 'config_sha256'), True),
        (('round',), True),
        (('teacher', 'checkpoint'), False),
        (('settings', 'palette'), False),
        (('code_version',), False),
    ],
)
def test_what_is_identity(meta, keys, is_identity):
    other = changed(meta, *keys)
    expected = ['.'.join(keys)] if is_identity else []
    assert [*differences(meta, other)] == expected
    assert (identity_of(meta) != identity_of(other)) == is_identity


def test_it_survives_the_file(meta, tmp_path):
    with pytest.raises(FileNotFoundError):
        read_meta(tmp_path / 'new')
    meta['settings']['scales'] = (0.5, 1.0)
    write_meta(tmp_path / 'new', meta)
    found = read_meta(tmp_path / 'new')
    assert differences(found, meta) == {}
    assert identity_of(found) == identity_of(meta)


def test_mixtures(meta):
    """Each of several identities once, never the own one."""
    second = changed(meta, 'settings', 'flip', value=True)
    second['mixed'] = mixed_with(second, meta)
    third = changed(meta, 'round', value=2)
    third['mixed'] = mixed_with(third, second)
    assert identities_in(third) == {
        identity_of(m) for m in (meta, second, third)
    }
    again = changed(meta, 'code_version')
    again['mixed'] = mixed_with(again, third)
    assert identities_in(again) == identities_in(third)
    assert identity_of(meta) not in map(identity_of, again['mixed'])


def test_links(meta, tmp_path):
    write_meta(tmp_path / 'round_1', meta)
    link = link_to(tmp_path / 'round_1', tmp_path / 'round_2')
    assert link['folder'] == '../round_1'
    assert link['identity'] == identity_of(meta)
    # More images are the same labels, in another file.
    write_meta(tmp_path / 'round_1', changed(meta, 'images', 'count', value=9))
    other = link_to(tmp_path / 'round_1', tmp_path / 'round_2')
    assert other['meta_sha256'] != link['meta_sha256']
    first, second = (changed(meta, 'previous', value=x) for x in (link, other))
    assert differences(first, second) == {}


@pytest.mark.parametrize(
    ('text', 'named'),
    [
        ('{', 'is damaged'),
        ('\udcff', 'is damaged'),
        ('{"version": 1, "teacher": 1, "settings": {}}', 'is damaged'),
        ('{"version": 2, "teacher": {}, "settings": {}}', 'version=2'),
    ],
)
@pytest.mark.fault(
    'autolabel_meta.json is damaged or of another version',
    'an error with its path',
)
def test_damaged_files(tmp_path, text, named):
    (tmp_path / 'autolabel_meta.json').write_bytes(os.fsencode(text))
    with pytest.raises(ValueError, match=named):
        read_meta(tmp_path)
