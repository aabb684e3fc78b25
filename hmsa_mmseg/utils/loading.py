"""Configs of runs and the models of their checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from torch import Tensor, nn

from .checkpoint import safe_load
from .nonfinite import nonfinite_names

#: Of missing or unused weights, so many are named.
_MAX_NAMES = 10


def read_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read the config of a model, with other settings by their dotted keys.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no config of a model.
    """
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except OSError:
        raise
    # A config is a program, whose errors are of any type.
    except Exception as error:
        raise ValueError(
            f'{path} cannot be read as a config: {_said(error)}'
        ) from error
    if not isinstance(cfg.get('model'), dict):
        raise ValueError(
            f'{path}: model={cfg.get("model")!r}; expected the config of a '
            'training or test run, whose model is a dict'
        )
    return cfg


def read_state_dict(
    path: str | os.PathLike,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read weights, of a checkpoint or by themselves.

    Returns:
        tuple[dict, dict]: All that the file holds, and the weights by their
        names, without the prefix ``module.`` of parallel training.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, could run code, or holds no weights.
    """
    loaded = safe_load(path)
    loaded = loaded if isinstance(loaded, dict) else {}
    state = loaded.get('state_dict', loaded)
    state = state if isinstance(state, dict) else {}
    wrong = [
        f'{key} is no tensor'
        for key, value in state.items()
        if not isinstance(value, Tensor)
    ]
    if wrong or not state:
        raise ValueError(
            f'{path} holds no weights, {_some(wrong) or "it is empty"}; '
            'expected a dict of tensors by their names, or one with such a '
            'dict as its state_dict'
        )
    weights = {
        str(key).removeprefix('module.'): value for key, value in state.items()
    }
    return loaded, weights


def load_model(cfg: Config, checkpoint: str) -> nn.Module:
    """Build the model of a config and load all of its weights.

    Args:
        cfg (Config): Of a training or test run.
        checkpoint (str): A checkpoint of it, or of mmseg's own model if the
            head has no attention.

    Returns:
        nn.Module: In evaluation mode. Its ``dataset_meta`` names classes and
        colours, if the checkpoint or the config's test set does.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged or does not fit the model, or there is
            no such model.
    """
    model = build_model(cfg)
    loaded, state = read_state_dict(checkpoint)
    try:
        missing, extra = model.load_state_dict(state, strict=False)
    # Weights of other sizes, or of another number of classes.
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f'{checkpoint} does not fit the model of {cfg.filename}: '
            f'{_said(error)}'
        ) from error
    if missing:
        raise ValueError(
            f'{checkpoint} lacks {len(missing)} of the weights of the model '
            f'of {cfg.filename}: {_some(missing)}; has {len(extra)} entries '
            f'that the model has not: {_some(extra)}; expected a checkpoint '
            'of the same config'
        )
    if extra:
        print(
            f'{len(extra)} entries of {checkpoint} are not used: '
            f'{_some(extra)}'
        )
    # Buffers may hold infinity on purpose: masks of some backbones.
    nonfinite = nonfinite_names(dict(model.named_parameters()))
    if nonfinite:
        raise ValueError(
            f'{checkpoint}: {nonfinite[0]} holds NaN or infinity; expected '
            'the weights of a training that has not diverged'
        )
    model.dataset_meta = _dataset_meta(cfg, loaded.get('meta') or {})
    return model


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config for inference, with random weights.

    Settings of the model that are for training alone are dropped from ``cfg``.

    Raises:
        ValueError: If it cannot be built.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    cfg.model.pretrained = None
    cfg.model.train_cfg = None
    try:
        return MODELS.build(cfg.model).eval()
    # Constructors of mmseg have errors of many types, assertions among them.
    except Exception as error:
        raise ValueError(
            f'{cfg.filename}: model cannot be built: {_said(error)}'
        ) from error


def find_test_set(cfg: Config) -> Mapping:
    """Find the config of the test set, within those that wrap it.

    Of several that are concatenated the first; empty if there is none.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while dataset.get('dataset') or dataset.get('datasets'):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    return dataset


def _some(names: Sequence[str]) -> str:
    """Give the first names of a list, and how many more there are."""
    more = len(names) - _MAX_NAMES
    text = ', '.join(names[:_MAX_NAMES]) or 'none'
    return f'{text} and {more} more' if more > 0 else text


def _said(error: Exception) -> str:
    """Give an error in one line."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:600]}'


def _dataset_meta(cfg: Config, meta: dict) -> dict[str, Any]:
    """Look for the classes in a checkpoint, then in the config."""
    if meta.get('dataset_meta'):
        return meta['dataset_meta']
    # As checkpoints of mmseg 0.x have them, which its zoo still lists.
    if meta.get('CLASSES'):
        return dict(classes=meta['CLASSES'], palette=meta.get('PALETTE'))
    dataset = find_test_set(cfg)
    known = dataset.get('type')
    if isinstance(known, str):
        known = DATASETS.get(known)
    return {
        **getattr(known, 'METAINFO', {}),
        **(dataset.get('metainfo') or {}),
    }
