"""Writing a converted config so that it is whole, and says what it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from mmengine.config import Config

from hmsa_mmseg.utils import atomic_file

from .configs import config_root
from .conversion import Conversion
from .layout import KEPT, config_text, plain

_DISTRIBUTIONS = ('mmsegmentation', 'onedl-mmsegmentation')


def read_zoo_config(path: str | os.PathLike) -> Config:
    """Read a config without importing what it asks for.

    Args:
        path (str | os.PathLike): Of the file.

    Returns:
        Config: What it says.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no config.
    """
    try:
        return Config.fromfile(path, import_custom_modules=False)
    except OSError:
        raise
    # A config is a program, whose errors are of any type.
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as a config: {type(error).__name__}: '
            f'{" ".join(str(error).split())[:600]}'
        ) from error


def write_config(
    conversion: Conversion, path: str | os.PathLike, header: Sequence[str]
) -> str:
    """Write a config, and read it back before it takes its place.

    Args:
        conversion (conversion.Conversion): The config and what was changed.
        path (str | os.PathLike): Of the file, which is replaced.
        header (Sequence[str]): Paragraphs of comments to begin with.

    Returns:
        str: Its text.

    Raises:
        OSError: If the file cannot be written.
        RuntimeError: If what was written would be another config.
        TypeError: If a setting cannot be written.
    """
    cfg = conversion.cfg
    text = config_text(cfg, header, conversion.changes)
    path = Path(path)
    # mmengine tells configs by their suffix.
    part = path.with_name(f'.{path.stem}.{os.getpid()}.part.py')
    with atomic_file(path, check=lambda p: _check(cfg, p), part=part) as file:
        file.write(text.encode())
    return text


def header(cfg: Config, source: Path) -> list[str]:
    """Say what a config is, for the head of its file.

    Args:
        cfg (Config): The converted config.
        source (Path): The config that it was made of.

    Returns:
        list[str]: Paragraphs.
    """
    if not _is_multi_scale(cfg):
        what = 'A model of the zoo, without attention'
    elif cfg.model.train_cfg.get('attention_only'):
        what = 'Attention alone for a trained model of the zoo'
    elif cfg.model.train_cfg.get('norm_eval'):
        what = 'A trained model of the zoo, trained on with attention'
    else:
        what = 'Hierarchical multi-scale attention for a model of the zoo'
    return [
        f'{what}: {source_of(source)}, converted by tools/from_zoo.py.',
        'What stands below a comment was changed; every other setting is '
        "the zoo's.",
    ]


def next_steps(cfg: Config, path: Path) -> str:
    """Say what to run next, and what it costs.

    Args:
        cfg (Config): The converted config.
        path (Path): Its file.

    Returns:
        str: Lines.
    """
    lines, hint = [], ''
    if _is_multi_scale(cfg):
        train, test = cfg.model.train_cfg.scales, cfg.model.test_cfg.scales
        lines = [
            f'Backbone and heads see {_work(train)} in training,',
            f'{_work(test)} at test time. Attention comes on top; what the '
            'whole model',
            'costs is counted by',
            f'  python tools/analysis_tools/get_flops.py {path}',
            '',
        ]
        hint = '  # --tta adds flips'
    lines += [
        'Next:',
        f'  MMSEG={config_root().parent}',
        f'  python $MMSEG/tools/train.py {path} '
        f'--work-dir work_dirs/{path.stem}',
        f'  python $MMSEG/tools/test.py {path} CHECKPOINT{hint}',
    ]
    return '\n'.join(lines)


def _is_multi_scale(cfg: Config) -> bool:
    return cfg.model.type == 'MultiScaleAttentionSegmentor'


def _work(scales: Sequence[float]) -> str:
    """Say how many pixels are seen, against one scale."""
    total = sum(scale * scale for scale in scales)
    return f'{total:g}x the pixels of scale 1 ({", ".join(map(str, scales))})'


def source_of(path: Path) -> str:
    """Say where a zoo config is from, for the head of a file."""
    try:
        inside = path.resolve().relative_to(config_root().resolve())
    except (OSError, ValueError):
        return path.name
    for name in _DISTRIBUTIONS:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return f'{inside.as_posix()} of {name} {version}'
    return inside.as_posix()


def differing_keys(cfg: Config, path: str | os.PathLike) -> list[str]:
    """Compare a config with what a file of it says.

    Args:
        cfg (Config): The config.
        path (str | os.PathLike): Of a file that :func:`write_config` wrote.

    Returns:
        list[str]: The settings that differ.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no config.
    """
    found = read_zoo_config(path)
    return [
        key
        for key in KEPT
        if key in cfg and not _same(plain(found.get(key)), plain(cfg[key]))
    ]


def _check(cfg: Config, path: Path) -> None:
    for key in differing_keys(cfg, path):
        raise RuntimeError(
            f'{path}: {key} would be written otherwise than {cfg[key]!r}'
        )


def _same(a: object, b: object) -> bool:
    """Whether two values are equal and of the same types."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b or a != a
