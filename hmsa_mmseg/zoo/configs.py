"""The configs of the model zoo that the installed mmseg carries."""

from __future__ import annotations

import os
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path


def config_root() -> Path:
    """Find ``mmseg/.mim/configs`` of the installed mmseg.

    Not by mmengine: it does not find it in mmseg's forks, and needs
    ``pkg_resources``, which newer versions of setuptools have not.

    Raises:
        FileNotFoundError: If mmseg was installed without its configs.
    """
    spec = find_spec('mmseg')
    for folder in (spec and spec.submodule_search_locations) or ():
        root = Path(folder) / '.mim' / 'configs'
        if root.is_dir():
            return root
    raise FileNotFoundError(
        'the installed mmseg has no folder .mim/configs, where its wheel has '
        'the model zoo; install with: pip install mmsegmentation==1.2.2'
    )


def list_configs(family: str = '*') -> list[Path]:
    """Configs of a family, such as ``ocrnet``, or all, sorted."""
    return sorted(
        path
        for path in config_root().glob(f'{family}/*.py')
        # Parts of configs, not configs of models.
        if path.parent.name != '_base_'
    )


def families() -> list[str]:
    """Folders of the zoo that hold configs of models, sorted."""
    return sorted({path.parent.name for path in list_configs()})


def find_config(name_or_path: str | os.PathLike) -> Path:
    """Find a config of the zoo by its name, or take a file as it is.

    A name may be with or without its family and ``.py``, for example
    ``ocrnet_hr48_4xb2-160k_cityscapes-512x1024``.

    Raises:
        FileNotFoundError: If there is neither such a file nor such a config,
            naming those with similar names.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    stem = path.name.removesuffix('.py')
    by_stem = {found.stem: found for found in list_configs()}
    found = by_stem.get(stem)
    # With a folder it must be the right one.
    folder = path.parent.as_posix()
    if found is not None and folder in ('.', found.parent.name):
        return found
    similar = get_close_matches(stem, by_stem, n=5, cutoff=0.6)
    hint = f'; similar names: {", ".join(similar)}' if similar else ''
    raise FileNotFoundError(
        f'{os.fspath(name_or_path)} is neither a file nor a config of the '
        f'installed zoo ({config_root()}){hint}'
    )
