"""Suite `rmi`: RMILoss against its formula, written down step by step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from oracles.literal_rmi import literal_rmi_loss
from torch import Tensor

from hmsa_mmseg.models.losses import RMILoss

from .cases import Case, Options, logits_difference, must_be_equal
from .networks import labels
from .page import Limit, size_text

TITLE = 'RMI loss'
NOTE = """\
Forward and backward of one image, float32, with `RMILoss` and with its
formula. Memory: above logits and labels, without the gradient, which both must
return. Part of the gain is that classes which the image does not have are
skipped; on a GPU they are not. Difference: of the loss or of the largest
gradient, whichever is larger."""
LIMITS = [
    Limit('RMI, times as fast', '', 'RMILoss', 'ratio', 4, at_least=True),
    Limit('RMI, temporaries', '', 'RMILoss', 'live_gb', 0.040),
]
# Of the loss, of the largest gradient. The formula is in float32 as well.
LOSS_TOLERANCE, GRAD_TOLERANCE = 1e-6, 1e-4
# Classes, those that are there, (H, W).
SIZES = {
    'full': [(19, 12, (512, 1024)), (65, 24, (512, 512))],
    'small': [(19, 12, (64, 128)), (65, 24, (64, 64))],
}


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared."""
    return {
        f'{num_classes} classes ({present} there), {size_text(size)}': partial(
            make_case, num_classes, present, size, options.device
        )
        for num_classes, present, size in SIZES[options.size]
    }


def make_inputs(
    num_classes: int, present: int, size: tuple[int, int], device: str
) -> tuple[Tensor, Tensor]:
    """Make logits and labels."""
    label = labels(1, size, num_classes, present)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, num_classes, *size, generator=generator)
    right = label.where(label < num_classes, 0)[:, None]
    logits.scatter_add_(1, right, torch.full_like(logits[:, :1], 3))
    return logits.to(device).requires_grad_(), label.to(device)


def make_case(
    num_classes: int, present: int, size: tuple[int, int], device: str
) -> Case:
    """Compare a step with the formula and with ours."""
    logits, label = make_inputs(num_classes, present, size, device)
    losses = {'literal': literal_rmi_loss, 'RMILoss': RMILoss()}

    def step(loss: Callable) -> Tensor:
        logits.grad = None
        value = loss(logits, label)
        value.backward()
        # Beside the result nothing stays, lest it be held in the next step.
        gradient, logits.grad = logits.grad, None
        return value.detach(), gradient

    def check() -> dict[str, float]:
        (expected, gradient), found = map(step, losses.values())
        loss = logits_difference(found[0], expected)
        must_be_equal('rmi', {'loss': loss}, LOSS_TOLERANCE)
        grad = logits_difference(found[1], gradient)
        must_be_equal('rmi', {'gradient': grad}, GRAD_TOLERANCE)
        return {'RMILoss': max(loss, grad)}

    return Case(
        {way: partial(step, loss) for way, loss in losses.items()},
        is_held=True,
        result_gb=logits.numel() * logits.element_size() / 1e9,
        check=check,
    )
