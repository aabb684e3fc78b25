"""Batch normalisation folded into the convolutions before it.

At test time it is an affine map of each channel, as is the convolution.
Which normalisation follows which convolution is found by watching a pass of
the model: mmcv's ``fuse_conv_bn`` goes by the order in which layers have been
registered, and folds across activations and into layers that are used twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn.bricks.wrappers import Conv2d as WrappedConv2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from .utils.execution import is_fixed_batch_norm, is_untouched

# Their subclasses may compute weights of their own.
_CONVS = (nn.Conv2d, WrappedConv2d)
# Batch normalisation, dropout and an activation in one layer.
_TIMM_NORMS = ('BatchNormAct2d', 'SyncBatchNormAct')


class FoldedNorm(nn.Module):
    """In place of a norm layer that its convolution has taken over."""

    def train(self, mode: bool = True) -> FoldedNorm:
        """Refuse to train: without norm layers it is another model."""
        if mode:
            raise RuntimeError(
                'a model prepared for inference with fold_bn=True cannot be '
                'trained: its batch normalisation is part of the '
                'convolutions; prepare a copy, copy.deepcopy(model)'
            )
        return super().train(mode)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        """Refuse weights that have not been folded."""
        if f'{prefix}running_mean' in state_dict:
            raise RuntimeError(
                f'{prefix}*: a checkpoint with batch normalisation cannot be '
                'loaded into a model prepared for inference with '
                'fold_bn=True; load it before'
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _FoldedNorm(FoldedNorm, nn.Identity):
    """In place of a layer that does nothing else, as the fast ways expect."""


class _FoldedTimmNorm(FoldedNorm, nn.Sequential):
    """Goes on with the dropout and the activation of a layer of timm."""


def fold_batch_norm(
    model: nn.Module, run: Callable[[], Any]
) -> list[tuple[str, str]]:
    """Fold norm layers into the convolutions whose results they alone read.

    In place; the result is the same up to rounding. Layers that ``run`` does
    not call stay as they are, as do other norm layers, layers of other classes
    or with hooks, and layers that are used in different ways.

    Args:
        model (nn.Module): In evaluation mode.
        run (Callable): Runs it on some input, all layers called as modules.

    Returns:
        list[tuple[str, str]]: Names of convolutions and their norm layers.
    """
    names = {module: name for name, module in model.named_modules()}
    with torch.no_grad():
        pairs = _watch(model, run)
        for conv, norm in pairs:
            # Rounded once, at the end.
            weights = fuse_conv_bn_weights(
                *_doubled(conv.weight, conv.bias),
                *_doubled(norm.running_mean, norm.running_var),
                norm.eps,
                *_doubled(norm.weight, norm.bias),
            )
            conv.weight, conv.bias = (
                nn.Parameter(
                    one.to(conv.weight.dtype),
                    requires_grad=conv.weight.requires_grad,
                )
                for one in weights
            )
            if isinstance(norm, _of_timm(*_TIMM_NORMS)):
                folded = _FoldedTimmNorm(norm.drop, norm.act)
            else:
                folded = _FoldedNorm()
            _replace(model, norm, folded.eval())
    return [(names[conv], names[norm]) for conv, norm in pairs]


class _Uses(TorchFunctionMode):
    """Counts which functions read the results of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        # By identity; kept, so that no other tensor takes it over.
        self.results: dict[int, Tensor] = {}
        self.uses: dict[int, int] = {}

    def add(self, result: Tensor) -> None:
        self.results[id(result)] = result
        self.uses[id(result)] = 0

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # Whoever asks for a shape does not read the values.
        if any(isinstance(leaf, Tensor) for leaf in tree_flatten(result)[0]):
            for leaf in tree_flatten((args, kwargs))[0]:
                if id(leaf) in self.uses:
                    self.uses[id(leaf)] += 1
        return result


def _watch(
    model: nn.Module, run: Callable[[], Any]
) -> list[tuple[nn.Module, nn.Module]]:
    """Find convolutions and norm layers that always go together."""
    modules = list(model.modules())
    conv_types = (*_CONVS, *_of_timm('Conv2dSame'))
    forwards = tuple(norm.forward for norm in _of_timm(*_TIMM_NORMS))
    convs = [
        module
        for module in modules
        if type(module) in conv_types and is_untouched(module)
    ]
    norms = [
        module for module in modules if is_fixed_batch_norm(module, forwards)
    ]
    uses = _Uses()
    made: list[tuple[nn.Module, int]] = []
    read: list[tuple[nn.Module, int]] = []

    def keep_result(conv: nn.Module, _: Any, result: Tensor) -> None:
        uses.add(result)
        made.append((conv, id(result)))

    handles = [conv.register_forward_hook(keep_result) for conv in convs]
    handles += [
        norm.register_forward_pre_hook(
            lambda norm, args: read.append((norm, id(args[0])))
        )
        for norm in norms
    ]
    try:
        with uses:
            run()
    finally:
        for handle in handles:
            handle.remove()

    maker = {key: conv for conv, key in made}
    reader = {key: norm for norm, key in read}
    partners: dict[nn.Module, set] = {}
    for conv, key in made:
        alone = uses.uses[key] == 1
        partners.setdefault(conv, set()).add(
            reader.get(key) if alone else None
        )
    for norm, key in read:
        partners.setdefault(norm, set()).add(maker.get(key))
    pairs = []
    for conv in convs:
        norm = next(iter(partners.get(conv, {None})))
        is_pair = partners.get(conv) == {norm} and norm is not None
        if is_pair and partners[norm] == {conv}:
            pairs.append((conv, norm))
    return pairs


def _of_timm(*names: str) -> tuple[type[nn.Module], ...]:
    """Classes of timm, which is optional, if anything has imported it."""
    layers = sys.modules.get('timm.layers')
    return tuple(
        getattr(layers, name) for name in names if hasattr(layers, name)
    )


def _doubled(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if one is None else one.double() for one in tensors]


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put another module wherever one is."""
    for module in model.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
