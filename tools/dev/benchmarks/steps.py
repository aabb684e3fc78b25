"""Training steps of one network, run in the ways that are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .cases import Options
from .networks import (
    STOCK,
    build,
    build_stock,
    images,
    labels,
    reference_networks,
    samples,
)

# Their weights are those of a model of ours, and so are their labels.
REFERENCES = ('authors', 'literal')


class _CrossEntropy(nn.Module):
    """Stand-in for a loss of mmseg: torch's cross-entropy, and nothing else.

    mmseg's losses and accuracies read values, which tensors on ``meta`` do
    not have. None of them holds a convolution or a matrix product, so no
    counted operation is lost.
    """

    loss_name = 'loss_ce'

    def forward(
        self, seg_logits: Tensor, seg_label: Tensor, ignore_index: int = 255
    ) -> Tensor:
        """The loss of logits (N, K, H, W) and labels (N, H, W)."""
        return F.cross_entropy(
            seg_logits, seg_label, ignore_index=ignore_index
        )


def _loss_by_feat(
    head: BaseDecodeHead,
    seg_logits: Tensor | list[Tensor],
    batch_data_samples: list[SegDataSample],
) -> dict[str, Tensor]:
    """Do what :meth:`BaseDecodeHead.loss_by_feat` does.

    Of several outputs, as PIDNet's head gives, the losses add up; one of a
    single channel is that of boundaries.
    """
    label = torch.cat([s.gt_sem_seg.data for s in batch_data_samples])
    outputs = [seg_logits] if torch.is_tensor(seg_logits) else seg_logits
    loss = 0
    for logits in outputs:
        logits = resize(
            logits,
            label.shape[1:],
            mode='bilinear',
            align_corners=head.align_corners,
        )
        if logits.shape[1] > 1:
            loss = loss + F.cross_entropy(logits, label, ignore_index=255)
        else:
            loss = loss + F.binary_cross_entropy_with_logits(
                logits, label.unsqueeze(1).to(logits)
            )
    return dict(loss_ce=loss)


def use_plain_losses(model: nn.Module) -> None:
    """Put torch's cross-entropy in the place of every loss of a model."""
    for module in model.modules():
        if isinstance(module, BaseDecodeHead):
            module.loss_by_feat = partial(_loss_by_feat, module)
        elif len(getattr(module, 'loss_scale', ())) > 0:
            module.loss_scale = nn.ModuleList([_CrossEntropy()])


def network_and_loss(
    name: str,
    cfg: Config,
    size: tuple[int, int],
    options: Options,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """Build a network for training, in one of the ways to run it.

    ``name`` is ``authors``, ``literal``, ``plain``, ``fast``,
    ``networks.STOCK``, or ``own``: as any config says. The loss is a function
    of images (N, 3, H, W) and labels (N, H, W).
    """
    if name == STOCK:
        model = build_stock(cfg, device, size=size)
    else:
        model = build(cfg, device, name != 'plain', size)
    model = model.to(dtype).train()
    if name in REFERENCES:
        network = reference_networks(options, model)[name].to(dtype).train()
        return network, network.loss
    if device == 'meta' and name != 'fast':
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
    """Return forward and backward without values, to be counted."""
    network, loss = network_and_loss(name, cfg, size, options, 'meta', dtype)
    x = images(batch_size, size, 'meta').to(dtype)
    label = torch.empty(batch_size, *size, dtype=torch.long, device='meta')

    def step() -> None:
        network.zero_grad()
        loss(x, label).backward()

    return step


def training_step(
    name: str,
    cfg: Config,
    batch_size: int,
    size: tuple[int, int],
    options: Options,
    autocast: torch.dtype | None = None,
) -> Callable[[], None]:
    """Return a whole training step: forward, losses, backward, update.

    The config's optimizer, with a learning rate of zero, so that all rounds
    do the same work.
    """
    device = options.device
    network, loss = network_and_loss(name, cfg, size, options, device)
    optimizer = dict(cfg.optim_wrapper.optimizer, lr=0.0)
    wrapper = build_optim_wrapper(
        network, dict(type='OptimWrapper', optimizer=optimizer)
    )
    label = labels(batch_size, size, num_classes(cfg), 12).to(device)
    x = images(batch_size, size, device)

    def step() -> None:
        with torch.autocast(device, autocast, autocast is not None):
            value = loss(x, label)
        # Gradients go at the end: what is there before a step does not count
        # as its own.
        wrapper.update_params(value)

    return step


def num_classes(cfg: Config) -> int:
    """Number of classes of a config."""
    head = cfg.model.decode_head
    head = head.get('seg_head', head) if isinstance(head, dict) else head
    head = head[-1] if isinstance(head, (list, tuple)) else head
    return head['num_classes']
