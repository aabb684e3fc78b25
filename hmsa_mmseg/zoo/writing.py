"""Configs are read and written as mmengine does, and compared."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mmengine.config import Config

from hmsa_mmseg.utils import atomic_file

from .configs import config_root
from .conversion import Conversion
from .nested import READ

_WIDTH = 79
_DISTRIBUTIONS = ('mmsegmentation', 'onedl-mmsegmentation')


def read_zoo_config(path: str | os.PathLike) -> Config:
    """Read a config without importing what it asks for."""
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
    conversion: Conversion, path: str | os.PathLike, source: Path
) -> None:
    """Write a config, and read it back before it takes its place."""
    path = Path(path)
    lines = [
        *_comment(
            f'{_title(conversion)}: {source_of(source)}, converted by '
            'hmsa from-zoo.'
        ),
        '#',
        *_comment('Every setting is that of the zoo, but:'),
        *(
            line
            for key, text in conversion.changes.items()
            for line in _comment(f'- {key}: {text}', indent='  ')
        ),
        '',
        conversion.cfg.pretty_text,
    ]
    # mmengine tells configs by their suffix.
    part = path.with_name(f'.{path.stem}.{os.getpid()}.part.py')
    with atomic_file(
        path, check=lambda part: _check(conversion.cfg, part), part=part
    ) as file:
        file.write('\n'.join(lines).encode())


def differing_keys(cfg: Config, path: str | os.PathLike) -> list[str]:
    """Compare a config with what a file of it says."""
    own, found = cfg.to_dict(), read_zoo_config(path).to_dict()
    return [key for key in READ if own.get(key) != found.get(key)]


def next_steps(conversion: Conversion, path: Path) -> str:
    """Say what to run next, and what it costs."""
    lines, hint = [], ''
    if conversion.is_multi_scale:
        model = conversion.cfg.model
        lines = [
            'Backbone and heads see '
            f'{_work(model.train_cfg.scales)} in training,',
            f'{_work(model.test_cfg.scales)} at test time. Attention comes '
            'on top; what the whole model',
            'costs is counted by',
            f'  hmsa flops {path}',
            '',
        ]
        hint = '  # --tta adds flips'
    lines += [
        'Next:',
        f'  hmsa browse {path} --not-show --output-dir browse',
        f'  hmsa train {path} --work-dir work_dirs/{path.stem}',
        f'  hmsa test {path} CHECKPOINT{hint}',
    ]
    return '\n'.join(lines)


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


def _title(conversion: Conversion) -> str:
    train_cfg = conversion.cfg.model.get('train_cfg') or {}
    if not conversion.is_multi_scale:
        return 'A model of the zoo, without attention'
    if train_cfg.get('attention_only'):
        return 'Attention alone for a trained model of the zoo'
    if train_cfg.get('norm_eval'):
        return 'A trained model of the zoo, trained on with attention'
    return 'Hierarchical multi-scale attention for a model of the zoo'


def _comment(text: str, indent: str = '') -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent='# ',
        subsequent_indent=f'# {indent}',
        break_long_words=False,
        break_on_hyphens=False,
    )


def _work(scales: Sequence[float]) -> str:
    """Say how many pixels are seen, against one scale."""
    total = sum(scale * scale for scale in scales)
    return f'{total:g}x the pixels of scale 1 ({", ".join(map(str, scales))})'


def _check(cfg: Config, path: Path) -> None:
    try:
        keys = differing_keys(cfg, path)
    except ValueError as error:
        raise ValueError(f'this config cannot be written: {error}') from error
    if keys:
        raise ValueError(
            'this config cannot be written: read back, it would differ in '
            f'{", ".join(keys)}'
        )
