"""Configs of the installed zoo are found by name."""

import pytest

from hmsa_mmseg.zoo import config_root, families, find_config, list_configs

NAME = 'ocrnet_hr48_4xb2-160k_cityscapes-512x1024'


def test_a_name_with_and_without_folder_and_suffix():
    expected = config_root() / 'ocrnet' / f'{NAME}.py'
    assert expected.is_file()
    for name in (NAME, f'{NAME}.py', f'ocrnet/{NAME}', f'ocrnet/{NAME}.py'):
        assert find_config(name) == expected


def test_a_path_is_taken_as_it_is(tmp_path):
    path = tmp_path / f'{NAME}.py'
    path.write_text('')
    assert find_config(path) == path
    assert find_config(str(path)) == path


def test_errors_name_what_is_similar(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf'similar names: {NAME}'):
        find_config(NAME.replace('hr48', 'hr47'))
    # A file that is missing is not replaced by the zoo's of the same name.
    with pytest.raises(FileNotFoundError, match='neither a file nor'):
        find_config(tmp_path / f'{NAME}.py')
    with pytest.raises(FileNotFoundError) as error:
        find_config('????')
    assert 'similar' not in str(error.value)


def test_families():
    assert {'ocrnet', 'segformer', 'mask2former'} <= set(families())
    assert '_base_' not in families()
    assert find_config(NAME) in list_configs('ocrnet')
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
