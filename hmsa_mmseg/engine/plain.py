"""Reducing nested values to what loads with ``weights_only=True``."""

from __future__ import annotations

import logging
from collections import OrderedDict

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

_PLAIN_TYPES = (
    *(bool, int, float, complex, str, bytes, type(None)),
    *(torch.Size, torch.dtype, torch.device),
)


def make_plain(checkpoint: dict) -> None:
    """Reduce a checkpoint of mmengine to tensors and plain values, in place.

    mmengine's log history is left out: only the smoothing of the first values
    printed after a resume depends on it. ``state_dict`` stays as it is.
    """
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
            tuples, sets and data elements of them.
        path (str): Where in the checkpoint the value stands.

    Returns:
        object: The same structure; a data element as a dict. What is none of
        these is kept, with a warning that names it: the file will not load
        with ``weights_only=True``.
    """
    if type(value) in _PLAIN_TYPES or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, BaseDataElement):
        value = dict(value.all_items())
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
    print_log(
        f'checkpoint entry {path} is a {type(value).__name__}: the file will '
        'not load with weights_only=True',
        logger='current',
        level=logging.WARNING,
    )
    return value
