"""Checkpoints that load back without running code from the file."""

from __future__ import annotations

import logging
from collections import OrderedDict

import numpy as np
import torch
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmseg.registry import HOOKS

_PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None))


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """A checkpoint hook whose files load with ``weights_only=True``.

    ``torch.load`` refuses by default, from torch 2.6 on, to unpickle anything
    but tensors and plain types. mmengine 0.10.7 stores its log history as
    objects of its own, so stock tools cannot resume from or test the files
    they have written. This hook leaves the log history out (only the
    smoothing of the first values printed after a resume depends on it) and
    turns numpy values into plain ones.

    Args:
        *args: As in :class:`mmengine.hooks.CheckpointHook`.
        **kwargs: As in :class:`mmengine.hooks.CheckpointHook`.
    """

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Reduce ``checkpoint`` to tensors and plain types, in place."""
        hub = checkpoint.get('message_hub')
        if hub is not None:
            hub['log_scalars'] = OrderedDict()
            kept = hub['runtime_info']
            hub['resumed_keys'] = OrderedDict(
                (key, flag)
                for key, flag in hub['resumed_keys'].items()
                if key in kept
            )
        for key in checkpoint.keys() - {'state_dict'}:
            checkpoint[key] = to_plain(checkpoint[key], path=key)


def to_plain(value: object, path: str) -> object:
    """Turn numpy values in nested containers into plain Python ones.

    Args:
        value (object): Tensors, plain types, numpy values and dicts, lists,
            tuples and sets of them.
        path (str): Where in the checkpoint the value stands.

    Returns:
        object: The same structure. What is none of these is kept, with a
        warning that names it: the file will not load with
        ``weights_only=True``.
    """
    if isinstance(value, _PLAIN_TYPES) and type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if type(value) in (dict, OrderedDict):
        # New containers: those of a running optimizer stay untouched.
        return type(value)(
            (to_plain(key, path), to_plain(item, f'{path}.{key}'))
            for key, item in value.items()
        )
    if type(value) in (list, tuple, set):
        return type(value)(to_plain(item, path) for item in value)
    if type(value) not in (torch.Size, torch.dtype, torch.device):
        print_log(
            f'checkpoint entry {path} is a {type(value).__name__}: the file '
            'will not load with weights_only=True',
            logger='current',
            level=logging.WARNING,
        )
    return value
