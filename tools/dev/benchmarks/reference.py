"""The peers: the authors' network, or its transcription, and equality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from oracles.authors import AuthorsNetwork
from oracles.literal_network import LiteralNetwork
from torch import Tensor, nn

from .options import Options

SCALES = (0.5, 1.0, 2.0)


def reference_networks(
    options: Options, model: nn.Module, scales: Sequence[float] = SCALES
) -> dict[str, nn.Module]:
    """Networks with a model's weights, run as the authors run theirs.

    Args:
        options (Options): Says whether their program is at hand.
        model (nn.Module): HRNet + OCR of this package.
        scales (Sequence[float]): Scales of inference.

    Returns:
        dict[str, nn.Module]: ``authors``, if it is, and ``literal``. The
        small network takes part as ``literal`` only: theirs has one size.
    """
    networks: dict[str, nn.Module] = {}
    if options.authors is not None and not options.is_small:
        networks['authors'] = AuthorsNetwork(options.authors, model, scales)
    networks['literal'] = LiteralNetwork(model, scales).eval()
    return networks


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let convolutions on a GPU be in float32, which they are not by default.

    TF32 keeps ten bits of a product's factors: results that are equal up to
    rounding then differ in the third digit.
    """
    with torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        benchmark=torch.backends.cudnn.benchmark,
        deterministic=torch.backends.cudnn.deterministic,
        allow_tf32=False,
    ):
        yield


def logits_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest magnitude."""
    difference = (found.double() - expected.double()).abs().max()
    return (difference / expected.double().abs().max()).item()


def wrong_classes(
    classes: Tensor, expected: Tensor, tolerance: float
) -> float:
    """Share of pixels whose class is not that of the logits, ties aside.

    Args:
        classes (Tensor): Shape (N, H, W), any integer type.
        expected (Tensor): Logits, shape (N, K, H, W).
        tolerance (float): How far below the largest logit that of the class
            may be, relative to the largest magnitude of all.

    Returns:
        float: In [0, 1].
    """
    expected = expected.float()
    chosen = expected.gather(1, classes.long()[:, None])[:, 0]
    lost = expected.amax(dim=1) - chosen
    # Not "greater than": NaN must count as wrong.
    right = lost <= tolerance * expected.abs().max()
    return 1 - right.float().mean().item()


def must_be_equal(
    suite: str, found: Mapping[str, float], tolerance: float
) -> None:
    """Stop if a difference is above the tolerance.

    Args:
        suite (str): For the message.
        found (Mapping[str, float]): Relative differences, by what differs.
        tolerance (float): The most that is allowed.

    Raises:
        SystemExit: Then nothing is timed.
    """
    # Not "greater than": NaN must fail.
    wrong = {key: d for key, d in found.items() if not d <= tolerance}
    if wrong:
        raise SystemExit(
            f'{suite}: the results are not equal (relative differences '
            f'{wrong}, allowed {tolerance}); nothing was timed'
        )
