"""What ``train_cfg`` and ``test_cfg`` of a segmentor may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from ..decode_heads.base_multi_scale_head import BaseMultiScaleHead
from ..scale_fusion import Size, check_scales
from ..utils import CAN_CHECKPOINT, checkpointable_blocks

_CHECKPOINT = ('scales', 'backbone')
_TRAIN_CFG_KEYS = (
    *('scales', 'checkpoint', 'attention_only', 'norm_eval', 'stats_scale'),
)
_DTYPES = {
    None: None,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}
_MODES = ('whole', 'slide')
_OVER_BUDGET = ('error', 'slide')


class InferenceSettings(NamedTuple):
    """``test_cfg``, checked.

    Attributes:
        scales (tuple[float]): Relative image sizes, lowest first.
        mode (str): ``whole`` or ``slide``.
        crop_size (tuple[int] | None): (H, W) of a window of ``slide``.
        stride (tuple[int] | None): Its step.
        dtype (torch.dtype | None): Type that backbone and heads run in.
        classes_only (bool): Whether no logits are kept.
        memory_budget (int | None): Bytes that a call may take.
        over_budget (str): ``error``, or ``slide`` for windows.
        scale_maps (bool): Whether results hold what each scale says.
        confidence (bool): Whether results hold the probability of the class
            that each pixel is given.
    """

    scales: tuple[float, ...]
    mode: str
    crop_size: Size | None = None
    stride: Size | None = None
    dtype: torch.dtype | None = None
    classes_only: bool = False
    memory_budget: int | None = None
    over_budget: str = 'error'
    scale_maps: bool = False
    confidence: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """Autocast in ``dtype``; without one it is as it is outside."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)


def read_scales(
    cfg: Mapping | None, cfg_name: str, decode_head: BaseMultiScaleHead
) -> tuple[float, ...]:
    """Read the scales of ``train_cfg`` or ``test_cfg``.

    Args:
        cfg (Mapping, optional): The config.
        cfg_name (str): Which of the two it is.
        decode_head (BaseMultiScaleHead): It may refuse scales too.

    Returns:
        tuple[float, ...]: The scales, lowest first.

    Raises:
        ValueError: If there are none, or they make no sense.
    """
    if cfg is None or cfg.get('scales') is None:
        raise ValueError(
            f'model.{cfg_name}.scales is missing: expected the relative '
            'image sizes, for example '
            f'{cfg_name}=dict(scales=(0.5, 1.0)); got {cfg_name}={cfg}'
        )
    is_train = cfg_name == 'train_cfg'
    key = f'model.{cfg_name}.scales'
    scales = check_scales(
        cfg['scales'],
        key=key,
        min_scales=decode_head.min_train_scales if is_train else 1,
    )
    decode_head.check_scales(scales, key)
    return scales


def check_train_cfg(
    cfg: Mapping, scales: Sequence[float], backbone: nn.Module
) -> None:
    """Refuse a ``train_cfg`` that asks for what there is not.

    Args:
        cfg (Mapping): The config.
        scales (Sequence[float]): Its scales, of :func:`read_scales`.
        backbone (nn.Module): Of the model.

    Raises:
        ValueError: If a key is unknown or a value makes no sense.
    """
    _refuse_unknown(cfg, 'train_cfg', _TRAIN_CFG_KEYS)
    attention_only = cfg.get('attention_only', False)
    _check_bool(attention_only, 'model.train_cfg.attention_only')
    norm_eval = cfg.get('norm_eval', False)
    _check_bool(norm_eval, 'model.train_cfg.norm_eval')
    stats_scale = cfg.get('stats_scale')
    if stats_scale is not None and stats_scale not in scales:
        raise ValueError(
            f'model.train_cfg.stats_scale must be one of the scales {scales} '
            f'or None, got {stats_scale!r}'
        )
    if norm_eval and stats_scale is not None:
        raise ValueError(
            f'model.train_cfg.stats_scale={stats_scale!r} takes no statistics '
            'with model.train_cfg.norm_eval=True, which leaves them as they '
            'are; set stats_scale=None or norm_eval=False'
        )
    names = cfg.get('checkpoint') or ()
    is_list = isinstance(names, (list, tuple))
    if not is_list or not all(name in _CHECKPOINT for name in names):
        raise ValueError(
            'model.train_cfg.checkpoint must be a list of some of '
            f'{list(_CHECKPOINT)}, got {names!r}'
        )
    if names and attention_only:
        raise ValueError(
            f'model.train_cfg.checkpoint={names!r} has nothing to save '
            'with model.train_cfg.attention_only=True, where backbone '
            'and neck keep nothing for a backward pass; remove one'
        )
    if names and not CAN_CHECKPOINT:
        raise ValueError(
            f'model.train_cfg.checkpoint={names!r} needs torch 2.1 or '
            f'newer, found {torch.__version__}'
        )
    if 'backbone' in names and not checkpointable_blocks(backbone):
        raise ValueError(
            "model.train_cfg.checkpoint: 'backbone' is not possible with "
            f'{type(backbone).__name__}, which has no blocks that '
            "mmseg could checkpoint (attribute `with_cp`); use ('scales',)"
        )


def read_test_cfg(
    cfg: Mapping | None, decode_head: BaseMultiScaleHead
) -> InferenceSettings:
    """Read and check ``test_cfg``.

    Args:
        cfg (Mapping, optional): The config.
        decode_head (BaseMultiScaleHead): Of the model.

    Returns:
        InferenceSettings: What it says, with defaults filled in.

    Raises:
        ValueError: If a key is missing or unknown or a value makes no sense.
    """
    scales = read_scales(cfg, 'test_cfg', decode_head)
    _refuse_unknown(cfg, 'test_cfg', InferenceSettings._fields)
    found = {key: cfg[key] for key in cfg if key != 'scales'}
    # mmseg reads it without a default.
    found.setdefault('mode', None)
    _check_choice(found, 'mode', _MODES)
    _check_choice(found, 'dtype', tuple(_DTYPES))
    _check_choice(found, 'over_budget', _OVER_BUDGET)
    for name in ('classes_only', 'scale_maps', 'confidence'):
        _check_bool(found.get(name, False), f'model.test_cfg.{name}')
    found['dtype'] = _DTYPES[found.get('dtype')]
    if found['mode'] == 'slide':
        found.update(_read_windows(found))
    else:
        # mmseg does not read them either.
        found.update(crop_size=None, stride=None)
    if found.get('memory_budget') is not None:
        found['memory_budget'] = _read_bytes(found['memory_budget'])
        if found.get('scale_maps'):
            raise ValueError(
                'model.test_cfg.scale_maps=True makes maps that '
                f'model.test_cfg.memory_budget={cfg["memory_budget"]} does '
                'not count; remove one'
            )
    if found.get('over_budget') == 'slide':
        _check_slide(found, decode_head)
    return InferenceSettings(scales, **found)


def _refuse_unknown(
    cfg: Mapping, cfg_name: str, expected: Sequence[str]
) -> None:
    unknown = set(cfg) - set(expected)
    if unknown:
        raise ValueError(
            f'model.{cfg_name} has no setting {sorted(unknown)}; expected '
            f'some of {list(expected)}'
        )


def _check_bool(value: object, key: str) -> None:
    if not isinstance(value, bool):
        raise ValueError(f'{key} must be True or False, got {value!r}')


def _check_choice(
    found: Mapping, name: str, expected: Sequence[str | None]
) -> None:
    if name in found and found[name] not in expected:
        raise ValueError(
            f'model.test_cfg.{name} must be one of {list(expected)}, got '
            f'{found[name]!r}'
        )


def _read_windows(found: Mapping) -> dict[str, Size]:
    """Check the windows of ``slide``, between which nothing may be left."""
    sizes = {}
    for name in ('crop_size', 'stride'):
        value = found.get(name)
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2
        if not is_pair or not all(is_positive_int(side) for side in value):
            raise ValueError(
                f'model.test_cfg.{name} must be (height, width) for mode='
                f"'slide', two integers of 1 or more; got {value!r}"
            )
        sizes[name] = tuple(value)
    if any(s > c for s, c in zip(sizes['stride'], sizes['crop_size'])):
        raise ValueError(
            f'model.test_cfg.stride={sizes["stride"]} leaves out pixels '
            'between windows; expected at most model.test_cfg.crop_size='
            f'{sizes["crop_size"]}'
        )
    return sizes


def _read_bytes(value: Any) -> int:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 1:
        raise ValueError(
            'model.test_cfg.memory_budget must be a number of bytes, for '
            f'example 4e9; got {value!r}'
        )
    return int(value)


def is_positive_int(value: object) -> bool:
    """Whether a setting is an integer of 1 or more; True is none."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and value > 0


def _check_slide(found: Mapping, decode_head: BaseMultiScaleHead) -> None:
    if found.get('memory_budget') is None:
        raise ValueError(
            "model.test_cfg.over_budget='slide' means nothing without "
            'model.test_cfg.memory_budget, got memory_budget=None'
        )
    if not decode_head.fuses_in_rows:
        raise ValueError(
            "model.test_cfg.over_budget='slide' needs a decode head that "
            'computes each scale alone, HierarchicalMSAttentionHead with '
            f'fast=True; got {type(decode_head).__name__} with fast='
            f'{decode_head.fast}'
        )
