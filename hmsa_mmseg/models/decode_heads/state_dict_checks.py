"""What a checkpoint must pass on its way into a head of several scales.

All functions work on the part of a state dict that belongs to the head, in
``_load_from_state_dict`` of the head, before its children read theirs.
"""

from __future__ import annotations

import logging

from mmengine.logging import print_log
from torch import Tensor

StateDict = dict[str, Tensor]


def map_stock_keys(state_dict: StateDict, prefix: str) -> None:
    """Rename, in place, the keys of mmseg's own models.

    There the decode head itself is what is ``seg_head`` here:
    ``decode_head.conv_seg`` of an EncoderDecoder becomes
    ``decode_head.seg_head.conv_seg``, ``decode_head.1.conv_seg`` of a
    CascadeEncoderDecoder ``decode_head.seg_head.1.conv_seg``. A checkpoint
    that has a ``seg_head`` already is left alone.
    """
    target = f'{prefix}seg_head.'
    keys = [key for key in state_dict if key.startswith(prefix)]
    if not keys or any(key.startswith(target) for key in keys):
        return
    for key in keys:
        state_dict[target + key[len(prefix) :]] = state_dict.pop(key)
    print_log(
        f'the checkpoint is of a model without scales: {len(keys)} keys '
        f'{prefix}* were read as {target}*',
        logger='current',
    )


def check_num_classes(
    state_dict: StateDict,
    own: StateDict,
    key: str,
    dim: int,
    num_classes: int,
    reinit_classifier: bool,
) -> None:
    """Refuse a checkpoint with another number of classes by a ValueError.

    mmengine loads the rest and logs a warning only, and the model goes on with
    a random classifier. With ``reinit_classifier`` the layers that differ are
    taken out of the state dict, in place, each with a warning. ``key`` is that
    of a weight of a classifier, with the classes in dimension ``dim``.
    """
    if key not in state_dict:
        return
    found, expected = state_dict[key].shape[dim], own[key].shape[dim]
    if found == expected:
        return
    message = (
        f'the checkpoint holds {found} classes ({key}), the model '
        f'{expected} (num_classes={num_classes})'
    )
    if not reinit_classifier:
        raise ValueError(
            f'{message}; set num_classes to that of the checkpoint, or '
            'decode_head.reinit_classifier=True to load everything but '
            'the classifiers'
        )
    for name, weight in own.items():
        other = state_dict.get(name)
        if other is not None and _differ_in_classes(
            weight, other, (expected, found), dim
        ):
            del state_dict[name]
            print_log(
                f'{message}; {name} keeps its initial values',
                logger='current',
                level=logging.WARNING,
            )


def check_attn_channels(
    state_dict: StateDict, own: StateDict, key: str
) -> None:
    """Refuse, by a ValueError, an attention branch of another width.

    mmengine loads the rest and logs a warning only, and the model goes on with
    random attention. ``key`` is that of the branch's first weight.
    """
    found, expected = state_dict.get(key), own.get(key)
    if found is None or expected is None or len(found) == len(expected):
        return
    raise ValueError(
        f'the attention branch of the checkpoint has {len(found)} channels '
        f'({key}), that of the model {len(expected)}; set '
        f'model.decode_head.attn_channels={len(found)}'
    )


def _differ_in_classes(
    own: Tensor, other: Tensor, numbers: tuple[int, int], dim: int
) -> bool:
    """Whether two tensors differ in the number of classes and no more."""
    # Vectors have one value for each class.
    dim = dim if own.dim() > dim else 0
    if own.dim() == 0 or own.dim() != other.dim():
        return False
    rest = [
        tuple(x.shape[:dim]) + tuple(x.shape[dim + 1 :]) for x in (own, other)
    ]
    return (own.shape[dim], other.shape[dim]) == numbers and rest[0] == rest[1]
