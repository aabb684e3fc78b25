"""What a teacher was trained on, as far as its checkpoint tells.

A student that learns from a teacher's labels has in part learnt from the
teacher's own training images: a score on those says little.
"""

from __future__ import annotations

import ast
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from hmsa_mmseg.utils import safe_load

from .config_datasets import PREFIX
from .teacher_record import Training, read_seen
from .training_sets import read_training_sets


def describe_training(
    checkpoint: str, cfg: Config, saw: Sequence[str] = ()
) -> Training:
    """Find out what a teacher was trained on.

    mmengine puts the config of a training run into its checkpoints, as text.
    Its literals are read, and nothing of it is run. Images are listed where
    their folders exist on this machine.

    Args:
        checkpoint (str): Of the teacher.
        cfg (Config): That labels are made with. What it trains on counts only
            if the checkpoint holds no config; it may not be what the teacher
            was trained with.
        saw (Sequence[str]): What the teacher has seen too: loaders of
            ``cfg``, such as ``config:val_dataloader``, and lists of images
            as :func:`.write_seen` writes them.

    Returns:
        Training: Images sorted, once each.

    Raises:
        OSError, ValueError: If the checkpoint or a list cannot be read, or
            ``cfg`` has no such loader.
    """
    found = _of_checkpoint(checkpoint, cfg)
    for one in saw:
        found.add(_declared(one, cfg))
    found.images = sorted({*found.images}, key=lambda image: image[::-1])
    return found


def _declared(saw: str, cfg: Config) -> Training:
    """What the user says that the teacher has seen."""
    if not saw.startswith(PREFIX) and Path(saw).is_file():
        images = read_seen(saw)
        about = dict(type='list', source='declared', path=saw)
        return Training([{**about, 'images': len(images)}], images)
    key = saw.removeprefix(PREFIX)
    declared = read_training_sets(cfg.to_dict(), 'declared', key)
    if not declared.sets:
        raise ValueError(
            f'{cfg.filename}: {key}.dataset is missing; expected the name of '
            'a data loader of the config, or a list of images'
        )
    return declared


def _of_checkpoint(checkpoint: str, cfg: Config) -> Training:
    """Data sets of the config that a checkpoint holds."""
    name = os.path.basename(checkpoint)
    # torch cannot map the files of before 1.6, which mmseg's zoo still has.
    loaded = safe_load(checkpoint, mapped=zipfile.is_zipfile(checkpoint))
    meta = loaded.get('meta') if isinstance(loaded, dict) else None
    text = meta.get('cfg') if isinstance(meta, dict) else None
    found = Training()
    if not isinstance(text, str):
        found.notes.append(
            f'{name} holds no config; its data are taken from '
            f'{os.path.basename(cfg.filename or "the config")}, which may not '
            'be what it was trained with'
        )
        found.add(read_training_sets(cfg.to_dict(), 'config'))
        return found
    try:
        settings, unread = literal_settings(text)
        if 'train_dataloader' in unread:
            raise ValueError(
                f'train_dataloader of its config: {unread["train_dataloader"]}'
            )
    except ValueError as error:
        found.notes.append(
            f'what {name} was trained on is unknown: {error}; '
            '--saw can tell it'
        )
        return found
    found.notes.append(f'data sets are read from the config in {name}')
    found.add(read_training_sets(settings, 'checkpoint'))
    if not found.sets:
        found.notes.append(f'the config in {name} has no data to train on')
    start = settings.get('load_from')
    if isinstance(start, str) and start:
        found.sets.append(
            dict(type='load_from', source='checkpoint', path=start)
        )
        found.notes.append(
            f'what {start}, where its training started, was trained on is not '
            'known; --saw can tell it'
        )
    return found


def literal_settings(text: str) -> tuple[dict, dict[str, str]]:
    """Read the settings of a config's text that are literals.

    mmengine writes ``Config.pretty_text`` into checkpoints: one assignment
    for each setting, of literals and ``dict(name=...)``. A checkpoint may be
    foreign: nothing of it is run, and all else is left unread.

    Returns:
        tuple[dict, dict[str, str]]: Settings by their names; and for each
        that was not read the reason.

    Raises:
        ValueError: If the text is no Python at all.
    """
    settings: dict[str, object] = {}
    unread: dict[str, str] = {}
    try:
        for node in ast.parse(text).body:
            if not isinstance(node, ast.Assign):
                continue
            for target in node.targets:
                name = getattr(target, 'id', None)
                settings.pop(name, None)
                unread.pop(name, None)
                try:
                    value = _DictCalls().visit(node.value)
                    settings[name] = ast.literal_eval(value)
                # A TypeError: a list as the key of a dict, for example.
                except (ValueError, TypeError) as error:
                    unread[name] = f'line {node.lineno}: {error}'
    # What is nested too deeply, or holds a null byte.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'not the text of a config: {type(error).__name__}: {error}'
        ) from error
    return settings, unread


class _DictCalls(ast.NodeTransformer):
    """Turns ``dict({'a-b': 0}, c=1)`` into ``{'a-b': 0, 'c': 1}``."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        is_dict = isinstance(node.func, ast.Name) and node.func.id == 'dict'
        names = [word.arg for word in node.keywords]
        first = node.args[0] if node.args else ast.Dict(keys=[], values=[])
        is_plain = isinstance(first, ast.Dict) and len(node.args) <= 1
        if not (is_dict and is_plain) or None in names:
            return node
        return ast.Dict(
            keys=[*first.keys, *map(ast.Constant, names)],
            values=[*first.values, *(word.value for word in node.keywords)],
        )
