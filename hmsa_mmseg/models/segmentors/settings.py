"""What ``train_cfg`` and ``test_cfg`` of a segmentor may hold."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import nn

from hmsa_mmseg.compat import autocast, torch_has, torch_needed
from hmsa_mmseg.known_keys import check_keys

from ..decode_heads.base_multi_scale_head import BaseMultiScaleHead
from ..scale_fusion import Size, check_scales
from ..utils.checkpointing import checkpointable_blocks
from ..utils.execution import is_tracing

_CHECKPOINT = ('scales', 'backbone')
_DTYPES = {
    None: None,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}
_MODES = ('whole', 'slide')
#: Settings of version 0.1, and what to take instead.
_REMOVED = {
    'memory_budget': "mode='slide' with crop_size and stride, classes_only="
    "True or dtype='bfloat16' take less memory",
    'over_budget': "mode='slide' with crop_size and stride computes windows",
}


class TrainingSettings(NamedTuple):
    """``train_cfg``, checked.

    Attributes:
        scales (tuple[float]): The relative sizes at which the image is seen
            in training, lowest first; (0.5, 1.0) in the paper.
        checkpoint (tuple[str]): What is computed again in the backward pass
            to save memory, with the same result: ``'scales'``, backbone and
            neck at all scales but the highest, and ``'backbone'``, the
            backbone's blocks at all scales; by default nothing.
        attention_only (bool): Whether everything but the attention of the
            decode head is frozen: no gradients, fixed BN statistics, no
            dropout, no auxiliary heads.
        norm_eval (bool): Whether running statistics are used to normalise,
            and stay as they are, everywhere but in the attention, as a
            trained model needs when it is trained on at several scales.
        stats_scale (float | None): The scale whose batches the running
            statistics of batch normalisation in backbone, neck and seg heads
            are taken from; None for all scales', as in the authors' code,
            which fit none of them.
        cuda_graph (bool): Whether losses and gradients of a batch are
            captured as a CUDA graph when its size comes for the second time,
            and replayed from then on; see :mod:`..utils.cuda_graph`.
    """

    scales: tuple[float, ...]
    checkpoint: tuple[str, ...] = ()
    attention_only: bool = False
    norm_eval: bool = False
    stats_scale: float | None = None
    cuda_graph: bool = False


class InferenceSettings(NamedTuple):
    """``test_cfg``, checked.

    Attributes:
        scales (tuple[float]): The relative sizes at test time, lowest first;
            (0.5, 1.0, 2.0) in the paper.
        mode (str): ``whole`` or ``slide``, as in mmseg; windows are sized at
            scale 1.0.
        crop_size (tuple[int] | None): (H, W) of a window of ``slide``.
        stride (tuple[int] | None): Its step.
        dtype (torch.dtype | None): The type in which backbone and heads run
            under autocast, ``'bfloat16'`` or ``'float16'`` in the config;
            logits, attention and their blend stay float32.
        classes_only (bool): Whether logits are left out of the results, which
            saves memory; classes are int16 then.
        scale_maps (bool): Whether results hold what each scale says by
            itself, see :mod:`.scale_map_results`.
        confidence (bool): Whether results hold ``confidence``, float32 (1, h,
            w), the probability of the class that each pixel is given.
    """

    scales: tuple[float, ...]
    mode: str
    crop_size: Size | None = None
    stride: Size | None = None
    dtype: torch.dtype | None = None
    classes_only: bool = False
    scale_maps: bool = False
    confidence: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """Autocast in ``dtype``; without one it is as it is outside.

        Raises:
            ValueError: If the device cannot run layers in this type.
        """
        if self.dtype is None:
            return nullcontext()
        if is_tracing():
            return torch.autocast(device.type, dtype=self.dtype)
        return autocast(device.type, self.dtype)


def read_train_cfg(
    cfg: Mapping, decode_head: BaseMultiScaleHead, backbone: nn.Module
) -> TrainingSettings:
    """Read and check ``train_cfg``.

    Raises:
        ValueError: If a key is missing or unknown, a value makes no sense, or
            it asks for what the model does not have.
    """
    scales = _read_scales(cfg, 'train_cfg', decode_head)
    _check_names_and_flags(cfg, 'train_cfg', TrainingSettings)
    names = cfg.get('checkpoint')
    names = () if names is None else names
    is_list = isinstance(names, (list, tuple))
    if not is_list or not all(name in _CHECKPOINT for name in names):
        raise ValueError(
            'model.train_cfg.checkpoint must be a list of some of '
            f'{list(_CHECKPOINT)}, got {names!r}'
        )
    found = {**cfg, 'scales': scales, 'checkpoint': tuple(names)}
    settings = TrainingSettings(**found)
    is_bool = isinstance(settings.stats_scale, bool)
    if is_bool or settings.stats_scale not in (None, *scales):
        raise ValueError(
            f'model.train_cfg.stats_scale must be one of the scales {scales} '
            f'or None, got {settings.stats_scale!r}'
        )
    if settings.norm_eval and settings.stats_scale is not None:
        raise ValueError(
            f'model.train_cfg.stats_scale={settings.stats_scale!r} takes no '
            'statistics with model.train_cfg.norm_eval=True, which leaves '
            'them as they are; set stats_scale=None or norm_eval=False'
        )
    if settings.attention_only and not decode_head.attention_modules:
        raise ValueError(
            'model.train_cfg.attention_only=True: '
            f'{type(decode_head).__name__} has no attention to train; '
            'expected model.decode_head to be one that has, such as '
            'HierarchicalMSAttentionHead'
        )
    if names and settings.attention_only:
        raise ValueError(
            f'model.train_cfg.checkpoint={names!r} has nothing to save '
            'with model.train_cfg.attention_only=True, where backbone '
            'and neck keep nothing for a backward pass; remove one'
        )
    if names and settings.cuda_graph:
        raise ValueError(
            f'model.train_cfg.checkpoint={names!r} cannot be captured as '
            'model.train_cfg.cuda_graph=True asks for: it reads the state of '
            'random numbers; remove one'
        )
    if names and not torch_has('checkpointing'):
        raise ValueError(
            f'model.train_cfg.checkpoint={names!r} '
            f'{torch_needed("checkpointing")}'
        )
    if 'backbone' in names and not checkpointable_blocks(backbone):
        raise ValueError(
            "model.train_cfg.checkpoint: 'backbone' is not possible with "
            f'{type(backbone).__name__}, which has no blocks that '
            "mmseg could checkpoint (attribute `with_cp`); use ('scales',)"
        )
    return settings


def read_test_cfg(
    cfg: Mapping, decode_head: BaseMultiScaleHead
) -> InferenceSettings:
    """Read and check ``test_cfg``.

    Raises:
        ValueError: If a key is missing or unknown or a value makes no sense.
    """
    scales = _read_scales(cfg, 'test_cfg', decode_head)
    _check_names_and_flags(cfg, 'test_cfg', InferenceSettings)
    # mmseg reads the mode without a default.
    found = {'mode': None, 'dtype': None, **cfg, 'scales': scales}
    for name, expected in (('mode', _MODES), ('dtype', tuple(_DTYPES))):
        if found[name] not in expected:
            raise ValueError(
                f'model.test_cfg.{name} must be one of {list(expected)}, got '
                f'{found[name]!r}'
            )
    found['dtype'] = _DTYPES[found['dtype']]
    if found['mode'] == 'slide':
        found.update(_read_windows(found))
    else:
        # mmseg does not read them either.
        found.update(crop_size=None, stride=None)
    return InferenceSettings(**found)


def _read_scales(
    cfg: Mapping, cfg_name: str, decode_head: BaseMultiScaleHead
) -> tuple[float, ...]:
    """Read the scales of ``train_cfg`` or ``test_cfg``, lowest first."""
    key = f'model.{cfg_name}.scales'
    if cfg.get('scales') is None:
        raise ValueError(
            f'{key} is missing: expected the relative image sizes, for '
            f'example {cfg_name}=dict(scales=(0.5, 1.0)); got {cfg_name}='
            f'{cfg}'
        )
    is_train = cfg_name == 'train_cfg'
    min_scales = decode_head.min_train_scales if is_train else 1
    scales = check_scales(cfg['scales'], key, min_scales)
    decode_head.check_num_scales(scales, key)
    return scales


def _check_names_and_flags(cfg: Mapping, cfg_name: str, kind: type) -> None:
    """Refuse names that are no field, and what is neither True nor False."""
    for name, instead in _REMOVED.items():
        if name in cfg:
            raise ValueError(
                f'model.{cfg_name}.{name}={cfg[name]!r} is no setting any '
                f'more: remove it; {instead}'
            )
    check_keys(f'model.{cfg_name}', cfg, kind._fields)
    for name, default in kind._field_defaults.items():
        value = cfg.get(name, default)
        if default is False and not isinstance(value, bool):
            raise ValueError(
                f'model.{cfg_name}.{name} must be True or False, got {value!r}'
            )


def _read_windows(found: Mapping) -> dict[str, Size]:
    """Check the windows of ``slide``, between which nothing may be left."""
    sizes = {}
    for name in ('crop_size', 'stride'):
        value = found.get(name)
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2
        if not is_pair or not all(
            isinstance(side, int) and not isinstance(side, bool) and side > 0
            for side in value
        ):
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
