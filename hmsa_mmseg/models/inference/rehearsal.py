"""What a pass of a network will take, found without computing anything.

The pass runs on ``meta`` tensors, which have a shape and no values, while the
bytes that they would hold are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hmsa_mmseg.utils.live_bytes import LiveBytes

from ..fast.tiles import rehearsal_for
from .folding import FoldedNorm


class Rehearsal(NamedTuple):
    """What a pass will take.

    Attributes:
        peak (int): The most bytes that its tensors will hold at once, its
            result included, weights and input apart. What kernels allocate
            by themselves is not seen.
        casts (int): Those among them that are casts of weights, which
            autocast keeps until it ends.
        result (Any): What it will give, as ``meta`` tensors.
    """

    peak: int
    casts: int
    result: Any


class _Pass(nn.Module):
    """A function of a model, as a module that holds the model's weights."""

    def __init__(self, model: nn.Module, function: Callable) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, image: Tensor) -> Any:
        return self.function(image)


def rehearse(
    model: nn.Module,
    function: Callable[[Tensor], Any],
    image_shape: tuple[int, ...],
    dtype: torch.dtype,
    half: torch.dtype | None = None,
) -> Rehearsal:
    """Run a pass on ``meta``; the model is as before when it ends.

    Args:
        model (nn.Module): A segmentor, on any device.
        function (Callable): A pass through it.
        image_shape (tuple[int]): Shape (N, 3, H, W) of its input.
        dtype (torch.dtype): Type of its input.
        half (torch.dtype, optional): The type of autocast, which knows no
            ``meta`` tensors: models with batch normalisation alone are run
            in that type. Others keep normalisation and softmax in float32,
            and are taken to be in float32 throughout: an upper bound. The
            casts of weights come on top. Defaults to None.

    Returns:
        Rehearsal: What the pass will take.

    Raises:
        RuntimeError: If the model does what ``meta`` tensors cannot.
    """
    casts = 0
    kind = next(model.parameters()).device.type
    if half is not None:
        casts = sum(2 * p.numel() for p in model.parameters())
        half = half if _is_all_half(model) else None
    state = {
        f'model.{name}': torch.empty_like(
            tensor,
            device='meta',
            dtype=half if tensor.is_floating_point() else None,
        )
        for name, tensor in [
            *model.named_parameters(),
            *model.named_buffers(),
        ]
    }
    image = torch.empty(image_shape, dtype=dtype, device='meta')
    handle = model.backbone.register_forward_pre_hook(
        lambda _, args: args if half is None else (args[0].to(half),)
    )
    results = []
    one_pass = _Pass(model, function)

    def run() -> None:
        results.append(torch.func.functional_call(one_pass, state, (image,)))

    if hasattr(torch, 'compiler'):
        # A compiled backbone takes other kernels, not more memory.
        run = torch.compiler.disable(run)
    try:
        with rehearsal_for(kind), torch.no_grad(), LiveBytes() as live:
            run()
    except (RuntimeError, NotImplementedError) as error:
        raise RuntimeError(
            'model.test_cfg.memory_budget: what '
            f'{type(model).__name__} takes cannot be foretold, as it does '
            f'what meta tensors cannot: {error}; leave out memory_budget'
        ) from error
    finally:
        handle.remove()
    return Rehearsal(live.peak + casts, casts, results[0])


def product_dtype(device: torch.device) -> torch.dtype:
    """The type in which float32 is multiplied here: autocast's, if on."""
    one = torch.ones(1, 1, device=device, dtype=torch.float32)
    return torch.mm(one, one).dtype


def _is_all_half(model: nn.Module) -> bool:
    """Whether autocast runs all large layers of a model in half precision."""
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention, nn.Softmax)
    has_batch_norm = False
    for module in model.modules():
        if isinstance(module, kinds):
            return False
        has_batch_norm |= isinstance(module, (_BatchNorm, FoldedNorm))
    return has_batch_norm
