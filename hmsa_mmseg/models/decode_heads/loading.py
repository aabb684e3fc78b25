"""What a checkpoint must pass on its way into a head of several scales.

All functions work on the part of a state dict that belongs to the head, in
``_load_from_state_dict`` of the head, before its children read theirs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mmengine.logging import print_log
from torch import Tensor

from .classifiers import find_classifier

if TYPE_CHECKING:
    from .base_multi_scale_head import BaseMultiScaleHead

StateDict = dict[str, Tensor]


def map_stock_keys(state_dict: StateDict, prefix: str) -> None:
    """Rename, in place, the keys of mmseg's own models.

    There the decode head itself is what is ``seg_head`` here: ``decode_head.
    conv_seg`` of an EncoderDecoder becomes ``decode_head.seg_head.conv_seg``,
    ``decode_head.1.conv_seg`` of a CascadeEncoderDecoder
    ``decode_head.seg_head.1.conv_seg``. A checkpoint that has a ``seg_head``
    already is left alone.

    Args:
        state_dict (dict[str, Tensor]): With the keys of the whole model or of
            the head.
        prefix (str): What the head's keys begin with.
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
    head: BaseMultiScaleHead, state_dict: StateDict, prefix: str
) -> None:
    """Refuse a checkpoint with another number of classes.

    mmengine loads the rest and logs a warning only, and the model goes on
    with a random classifier. With ``reinit_classifier`` the layers that
    differ are taken out of the state dict, in place, each with a warning.

    Args:
        head (BaseMultiScaleHead): The head to load into.
        state_dict (dict[str, Tensor]): With the keys of this package.
        prefix (str): What the head's keys begin with.

    Raises:
        ValueError: If the numbers differ and ``reinit_classifier`` is False.
    """
    names = {id(module): name for name, module in head.named_modules()}
    for seg_head in head.seg_heads:
        classifier = find_classifier(seg_head)
        dim = classifier.class_dim
        name = f'{prefix}{names[id(seg_head)]}.{classifier.weight}'
        if name not in state_dict:
            continue
        found, expected = state_dict[name].shape[dim], head.out_channels
        if found == expected:
            continue
        message = (
            f'the checkpoint holds {found} classes ({name}), the model '
            f'{expected} (num_classes={head.num_classes})'
        )
        if not head.reinit_classifier:
            raise ValueError(
                f'{message}; set num_classes to that of the checkpoint, or '
                'decode_head.reinit_classifier=True to load everything but '
                'the classifiers'
            )
        for key, own in head.state_dict(prefix=prefix).items():
            other = state_dict.get(key)
            if other is not None and _differ_in_classes(
                own, other, (expected, found), dim
            ):
                del state_dict[key]
                print_log(
                    f'{message}; {key} keeps its initial values',
                    logger='current',
                    level=logging.WARNING,
                )


def check_attn_channels(
    head: BaseMultiScaleHead, state_dict: StateDict, prefix: str
) -> None:
    """Refuse a checkpoint whose attention branch has another width.

    mmengine loads the rest and logs a warning only, and the model goes on
    with random attention.

    Args:
        head (BaseMultiScaleHead): The head to load into.
        state_dict (dict[str, Tensor]): With the keys of this package.
        prefix (str): What the head's keys begin with.

    Raises:
        ValueError: If the widths differ.
    """
    key = 'scale_attn.conv0.weight'
    found, own = state_dict.get(prefix + key), head.state_dict().get(key)
    if found is None or own is None or len(found) == len(own):
        return
    raise ValueError(
        f'the attention branch of the checkpoint has {len(found)} channels '
        f'({prefix}{key}), that of the model {len(own)}; set '
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
