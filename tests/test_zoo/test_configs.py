"""Configs of the installed zoo are found by name."""

import pytest

from hmsa_mmseg.zoo import config_root, families, find_config, list_configs

NAME = 'ocrnet_hr48_4xb2-160k_cityscapes-512x1024'


def test_names_and_files(tmp_path):
    expected = config_root() / 'ocrnet' / f'{NAME}.py'
    assert expected.is_file()
    for name in (NAME, f'{NAME}.py', f'ocrnet/{NAME}', f'ocrnet/{NAME}.py'):
        assert find_config(name) == expected
    path = tmp_path / f'{NAME}.py'
    # A file that is missing is not replaced by the zoo's of the same name.
    with pytest.raises(FileNotFoundError, match='neither a file nor'):
        find_config(path)
    path.write_text('')
    assert find_config(path) == path
    with pytest.raises(FileNotFoundError, match=rf'similar names: {NAME}'):
        find_config(NAME.replace('hr48', 'hr47'))


def test_families():
    by_family = [path for name in families() for path in list_configs(name)]
    assert list_configs() == by_family
    # Names are unique, so that a name is enough.
    assert len({path.stem for path in by_family}) == len(by_family)
    # Independently: every file below the root but the parts.
    root = config_root()
    files = {p for p in root.rglob('*.py') if '_base_' not in p.parts}
    assert files == set(by_family)


def test_without_a_zoo(monkeypatch):
    monkeypatch.setattr('hmsa_mmseg.zoo.configs.find_spec', lambda _: None)
    with pytest.raises(FileNotFoundError, match=r'no folder \.mim/configs'):
        config_root()
