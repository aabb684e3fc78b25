"""The text of a whole config: sections, variables and comments."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config

from .source import WIDTH, Name, Path, assignment

# What mmengine's Runner and mmseg's tools read, in the order of writing.
# Other variables of a config have only helped to build these.
SECTIONS = {
    'Model': ('model',),
    'Data': (
        'train_dataloader',
        'val_dataloader',
        'test_dataloader',
        'val_evaluator',
        'test_evaluator',
        'tta_model',
        'tta_pipeline',
    ),
    'Schedule': (
        'optim_wrapper',
        'param_scheduler',
        'auto_scale_lr',
        'train_cfg',
        'val_cfg',
        'test_cfg',
        'default_hooks',
        'custom_hooks',
    ),
    'Runtime': (
        'env_cfg',
        'randomness',
        'vis_backends',
        'visualizer',
        'log_processor',
        'log_level',
        'load_from',
        'resume',
        'find_unused_parameters',
        'model_wrapper_cfg',
        'runner_type',
        'strategy',
        'compile',
        'launcher',
        'experiment_name',
        'work_dir',
    ),
}
FIRST = ('custom_imports', 'default_scope')
KEPT = (*FIRST, *(key for keys in SECTIONS.values() for key in keys))
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class _Variable(NamedTuple):
    """A value with a name of its own.

    Attributes:
        value (Any): The value.
        section (str): Where it is written, before what uses it.
        fits (Callable): Whether a path may hold it.
    """

    value: Any
    section: str
    fits: Callable[[Path], bool]


def config_text(
    cfg: Config, header: Sequence[str], changes: Mapping[str, str]
) -> str:
    """Write a config as a person would.

    Values that occur again have a name, as in the zoo; test loaders that
    equal those for validation refer to them.

    Args:
        cfg (Config): The config, with all its settings.
        header (Sequence[str]): Paragraphs to begin with, as comments.
        changes (Mapping[str, str]): Sentences by the dotted key they are to
            be written above; where there is no such key, above what holds
            it.

    Returns:
        str: Python source, which gives the same settings.

    Raises:
        TypeError: If a setting cannot be written.
    """
    settings = {key: plain(cfg[key]) for key in KEPT if key in cfg}
    variables = _variables(cfg, settings)
    comments = _comments(settings, changes)
    written = {
        key: _with_names(value, (key,), variables)
        for key, value in settings.items()
    }
    for twin, first in (
        ('test_dataloader', 'val_dataloader'),
        ('test_evaluator', 'val_evaluator'),
    ):
        if twin in settings and settings[twin] == settings.get(first):
            written[twin] = Name(first)
    used = _names_in(written)
    for name, variable in variables.items():
        # Names in names: the size of crops in pipelines.
        if name in used:
            others = {k: v for k, v in variables.items() if k != name}
            value = _with_names(plain(variable.value), (name,), others)
            used |= _names_in(value)
    paragraphs = ['\n#\n'.join(_comment(text) for text in header)]
    paragraphs.append(
        ''.join(
            assignment(key, written[key], comments)
            for key in FIRST
            if key in written
        )
    )
    for title, keys in SECTIONS.items():
        lines = [f'# ---- {title} ----\n']
        for name, variable in variables.items():
            if variable.section == title and name in used:
                others = {k: v for k, v in variables.items() if k != name}
                value = _with_names(plain(variable.value), (name,), others)
                lines.append(assignment(name, value, comments))
        for key in keys:
            if key in written and key not in variables:
                lines.append(assignment(key, written[key], comments))
        if len(lines) > 1:
            paragraphs.append(''.join(lines))
    texts = [text.rstrip('\n') for text in paragraphs if text]
    return '\n\n'.join(texts) + '\n'


def left_out(cfg: Config, text: str) -> list[str]:
    """Top-level names of a config that its text has not, sorted."""
    written = {line.split(' = ')[0] for line in text.splitlines()}
    return sorted(set(cfg) - written)


def plain(value: Any) -> Any:
    """Copy a value with plain dicts, lists and tuples in it."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value


def _comment(text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent='# ',
        subsequent_indent='# ',
        break_long_words=False,
        break_on_hyphens=False,
    )


def _comments(
    settings: Mapping[str, Any], changes: Mapping[str, str]
) -> dict[Path, list[str]]:
    """Wrap sentences, by the path of an existing key."""
    comments: dict[Path, list[str]] = {}
    for dotted, text in changes.items():
        path = _existing(settings, dotted)
        if not path:
            continue
        missing = dotted[len('.'.join(path)) :].lstrip('.')
        text = f'{missing}: {text}' if missing else text
        text = text[:1].upper() + text[1:] + '.'
        width = WIDTH - 4 * (len(path) - 1) - 2
        comments.setdefault(path, []).extend(
            textwrap.wrap(text, max(width, 30), break_long_words=False)
        )
    return comments


def _existing(settings: Any, dotted: str) -> Path:
    """The longest part of a dotted key that there is."""
    path: list[str] = []
    rest = dotted
    while rest and isinstance(settings, Mapping):
        found = [
            key
            for key in settings
            if rest == key or rest.startswith(f'{key}.')
        ]
        if not found:
            break
        # Keys of parameters have dots themselves.
        key = max(found, key=len)
        path.append(key)
        settings, rest = settings[key], rest[len(key) + 1 :]
    return tuple(path)


def _variables(
    cfg: Config, settings: Mapping[str, Any]
) -> dict[str, _Variable]:
    found = {}
    if 'crop_size' in cfg:
        found['crop_size'] = _Variable(
            plain(cfg.crop_size),
            'Model',
            lambda path: (
                path[-1] in ('size', 'crop_size')
                and path[:2] != ('model', 'test_cfg')
            ),
        )
    for key in cfg:
        if key.endswith('norm_cfg') and isinstance(cfg[key], Mapping):
            found[key] = _Variable(
                plain(cfg[key]),
                'Model',
                lambda path: path[-1].endswith('norm_cfg'),
            )
    preprocessor = settings.get('model', {}).get('data_preprocessor')
    if preprocessor is not None:
        found['data_preprocessor'] = _Variable(
            preprocessor,
            'Model',
            lambda path: path == ('model', 'data_preprocessor'),
        )
    if 'vis_backends' in settings:
        found['vis_backends'] = _Variable(
            settings['vis_backends'],
            'Runtime',
            lambda path: path == ('visualizer', 'vis_backends'),
        )
    for key, last in (('dataset_type', 'type'), ('data_root', 'data_root')):
        if isinstance(cfg.get(key), str):
            found[key] = _Variable(
                cfg[key],
                'Data',
                lambda path, last=last: (
                    path[0] in _LOADERS and path[-1] == last
                ),
            )
    for name, loader in (
        ('train_pipeline', 'train_dataloader'),
        ('test_pipeline', 'test_dataloader'),
        ('val_pipeline', 'val_dataloader'),
    ):
        pipeline = _pipeline(settings.get(loader))
        known = [variable.value for variable in found.values()]
        if pipeline and pipeline not in known:
            found[name] = _Variable(
                pipeline,
                'Data',
                lambda path: path[0] in _LOADERS and path[-1] == 'pipeline',
            )
    return found


def _pipeline(value: Any) -> list | None:
    """The first pipeline in the config of a dataloader."""
    if isinstance(value, Mapping):
        if isinstance(value.get('pipeline'), list):
            return value['pipeline']
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        found = (_pipeline(item) for item in value)
        return next((one for one in found if one), None)
    return None


def _with_names(
    value: Any, path: Path, variables: Mapping[str, _Variable]
) -> Any:
    """Put names in place of values that have one."""
    for name, variable in variables.items():
        is_same = type(value) is type(variable.value)
        if is_same and value == variable.value and variable.fits(path):
            return Name(name)
    if isinstance(value, Mapping):
        return {
            key: _with_names(item, (*path, str(key)), variables)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(
            _with_names(item, (*path, str(i)), variables)
            for i, item in enumerate(value)
        )
    return value


def _names_in(value: Any) -> set[str]:
    if isinstance(value, Name):
        return {str(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return set().union(*map(_names_in, value)) if value else set()
    return set()
