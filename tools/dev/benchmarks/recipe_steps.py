"""Training steps of one network, run in the ways that are compared.

Shape shorthand in this module:
    N: batch, H, W: image size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fusion.costs import use_plain_losses
from mmengine.config import Config
from torch import Tensor, nn

from hmsa_mmseg.models.decode_heads.base_multi_scale_head import (
    BaseMultiScaleHead,
)

from .networks import build, build_stock, images, labels, samples
from .options import Options
from .reference import reference_networks
from .stopwatch import Part

STOCK = 'mmseg OCRNet, scale 1'
# Their weights are those of a model of ours, and so are their labels.
REFERENCES = ('authors', 'literal')


def network_and_loss(
    name: str,
    cfg: Config,
    size: tuple[int, int],
    options: Options,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """Build a network for training, in one of the ways to run it.

    Args:
        name (str): ``authors``, ``literal``, ``plain``, ``fast``, or
            :data:`STOCK`.
        cfg (mmengine.Config): A whole config of this package.
        size (tuple[int, int]): Size of the images.
        options (Options): With the authors' program, for ``authors``.
        device (str): ``cpu``, ``cuda`` or ``meta``. Defaults to ``cpu``.
        dtype (torch.dtype): Of weights and activations.

    Returns:
        tuple: The network, and its loss as a function of images
        (N, 3, H, W) and labels (N, H, W).
    """
    kwargs = dict(device=device, size=size)
    if name == STOCK:
        model = build_stock(cfg, **kwargs)
    else:
        model = build(cfg, fast=name == 'fast', **kwargs)
    model = model.to(dtype).train()
    if name in REFERENCES:
        network = reference_networks(options, model)[name].to(dtype).train()
        return network, network.loss
    if device == 'meta' and name != 'fast':
        # mmseg's losses and accuracies read values, which `meta` lacks.
        use_plain_losses(model)

    def loss(x: Tensor, label: Tensor) -> Tensor:
        found = model.loss(x, samples(label))
        return sum(v for key, v in found.items() if 'loss' in key)

    return model, loss


def meta_step(
    name: str,
    cfg: Config,
    batch_size: int,
    size: tuple[int, int],
    options: Options,
    dtype: torch.dtype = torch.float32,
) -> Callable[[], None]:
    """Return forward and backward without values, to be counted.

    Args:
        name (str): As for :func:`network_and_loss`. Of mmseg's model and of
            the plain way the loss is torch's own cross-entropy alone.
        cfg (mmengine.Config): A whole config of this package.
        batch_size (int): N.
        size (tuple[int, int]): H and W.
        options (Options): As for :func:`network_and_loss`.
        dtype (torch.dtype): Of weights and activations; the losses are in
            float32 at least, as under autocast.

    Returns:
        Callable: Without arguments.
    """
    network, loss = network_and_loss(name, cfg, size, options, 'meta', dtype)
    x = images(batch_size, size, 'meta').to(dtype)
    label = torch.empty(batch_size, *size, dtype=torch.long, device='meta')

    def step() -> None:
        network.zero_grad()
        loss(x, label).backward()

    return step


class TrainingStep:
    """A whole training step: forward, losses, backward, update.

    The learning rate is zero, so that all rounds do the same work.

    Args:
        name (str): As for :func:`network_and_loss`.
        cfg (mmengine.Config): A whole config of this package.
        batch_size (int): N.
        size (tuple[int, int]): H and W.
        options (Options): As for :func:`network_and_loss`.
        autocast (torch.dtype, optional): Type for autocast.
    """

    def __init__(
        self,
        name: str,
        cfg: Config,
        batch_size: int,
        size: tuple[int, int],
        options: Options,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.network, self._loss = network_and_loss(
            name, cfg, size, options, options.device
        )
        self._optimizer = torch.optim.SGD(
            self.network.parameters(), 0.0, momentum=0.9
        )
        label = labels(batch_size, size, num_classes(cfg), 12)
        self._label = label.to(options.device)
        self._x = images(batch_size, size, options.device)
        self._autocast = dict(
            device_type=options.device,
            dtype=autocast,
            enabled=autocast is not None,
        )

    def __call__(self) -> None:
        """Run it once."""
        with torch.autocast(**self._autocast):
            value = self._loss(self._x, self._label)
        value.backward()
        self._optimizer.step()
        # At the end: what is there before a step does not count as its own.
        self._optimizer.zero_grad()

    def parts(self) -> list[Part]:
        """What a profile of a step of ours or of mmseg's tells apart."""
        parts = [
            ('losses, resizing', self.network, 'loss'),
            ('backbone, forward', self.network.backbone, 'forward'),
            ('backward', torch.Tensor, 'backward'),
            ('update', self._optimizer, 'step'),
        ]
        head = self.network.decode_head
        if isinstance(head, BaseMultiScaleHead):
            parts += [
                ('heads, forward', head, 'forward_seg_heads'),
                ('attention, forward', head.scale_attn, 'forward'),
            ]
        else:
            parts += [('heads, forward', one, 'forward') for one in head]
        return parts


def num_classes(cfg: Config) -> int:
    """Number of classes of a config."""
    head: Any = cfg.model.decode_head.seg_head
    head = head[-1] if isinstance(head, (list, tuple)) else head
    return head['num_classes']
