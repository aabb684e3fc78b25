"""Training steps of one network, run in the ways that are compared."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmseg.models.decode_heads import decode_head as stock_head
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from hmsa_mmseg.models.utils.cuda_graph import GraphCache

from .autocast import meta_autocast
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
    model = model.train()
    if name in REFERENCES:
        network = reference_networks(options, model)[name].train()
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
    autocast: bool = False,
) -> Callable[[], None]:
    """Return forward and backward without values, to be counted.

    Under bfloat16 autocast, as on a GPU, or in float32.
    """
    network, loss = network_and_loss(name, cfg, size, options, 'meta')
    x = images(batch_size, size, 'meta')
    label = torch.empty(batch_size, *size, dtype=torch.long, device='meta')

    def step() -> None:
        network.zero_grad()
        if not autocast:
            loss(x, label).backward()
            return
        with meta_autocast(torch.bfloat16) as backward:
            with torch.autocast('cpu', torch.bfloat16):
                value = loss(x, label)
            backward(value)

    return step


class TrainingStep:
    """A whole training step: forward, losses, backward, update.

    The config's optimizer, with a learning rate of zero, so that all rounds
    do the same work.

    Args:
        way (str): A name for :func:`network_and_loss`, and after it any of
            ``checkpointing``, ``graph``, ``channels_last`` and ``compile``:
            ``fast + graph``. mmseg's model gets a graph with an accuracy that
            does not wait for the GPU.
        cfg (Config): Of a hierarchical model, unless it is ``own``.
        batch_size (int): Number of images.
        size (tuple[int]): Their (H, W).
        options (Options): Of the run.
        autocast (torch.dtype, optional): Of forward pass and losses.
    """

    def __init__(
        self,
        way: str,
        cfg: Config,
        batch_size: int,
        size: tuple[int, int],
        options: Options,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.name, *self.switches = way.split(' + ')
        self.cfg, self.options = copy.deepcopy(cfg), options
        self.shape, self.autocast = (batch_size, size), autocast
        self.calls = 0

    @cached_property
    def _parts(self) -> tuple[Callable[[], Tensor], nn.Module, Any]:
        """The loss, the network and its optimizer."""
        batch_size, size = self.shape
        cfg, switches, device = self.cfg, self.switches, self.options.device
        is_stock, is_graphed = self.name == STOCK, 'graph' in switches
        if 'checkpointing' in switches:
            cfg.model.train_cfg.checkpoint = ('scales', 'backbone')
        if is_graphed and not is_stock:
            cfg.model.train_cfg.cuda_graph = True
        network, loss = network_and_loss(
            self.name, cfg, size, self.options, device
        )
        if is_graphed and is_stock:
            loss = _stock_graph(network, loss)
        label = labels(batch_size, size, num_classes(cfg), 12).to(device)
        x = images(batch_size, size, device)
        if 'channels_last' in switches:
            network.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        if 'compile' in switches:
            network.backbone.compile(dynamic=False)
        optimizer = dict(cfg.optim_wrapper.optimizer, lr=0.0)
        wrapper = build_optim_wrapper(
            network, dict(type='OptimWrapper', optimizer=optimizer)
        )
        return lambda: loss(x, label), network, wrapper

    def _loss(self) -> Tensor:
        dtype, device = self.autocast, self.options.device
        loss, network, _ = self._parts
        with torch.autocast(device, dtype, dtype is not None):
            value = loss()
        self.calls += 1
        if 'graph' in self.switches and self.calls == 3:
            must_have_a_graph(network.training_graphs)
        return value

    def __call__(self) -> None:
        """Take a step."""
        # Gradients go at the end: what is there before a step does not count
        # as its own.
        self._parts[2].update_params(self._loss())

    def gradients(self) -> dict[str, Tensor]:
        """Loss and gradients, with the same random numbers each time."""
        torch.manual_seed(0)
        loss = self._loss()
        loss.backward()
        _, network, wrapper = self._parts
        found = {
            name: param.grad.clone()
            for name, param in network.named_parameters()
            if param.grad is not None
        }
        wrapper.zero_grad()
        return {'loss': loss.detach(), **found}


def must_have_a_graph(graphs: GraphCache) -> None:
    """Raise if what was to be replayed ran without a graph."""
    if not graphs.graphs:
        raise RuntimeError('no graph was captured, see what the log says')


def can_have_graphs(options: Options) -> bool:
    """Whether graphs can be captured on the device of a run."""
    return GraphCache.recorder_type.device_type == options.device


def _stock_graph(network: nn.Module, loss: Callable) -> Callable:
    """Replay the losses of mmseg's model, whose accuracy takes a mask."""
    network.training_graphs = GraphCache('stock')

    def accuracy(
        pred: Tensor, target: Tensor, ignore_index: int | None = None
    ) -> Tensor:
        right = (pred.argmax(dim=1) == target).sum()
        valid = (target != ignore_index).sum()
        return 100.0 * right[None] / valid.clamp_min(1)

    def graphed(x: Tensor, label: Tensor) -> Tensor:
        with patch.object(stock_head, 'accuracy', accuracy):
            found = network.training_graphs(network, loss, (x, label))
            return loss(x, label) if found is None else found

    return graphed


def num_classes(cfg: Config) -> int:
    """Number of classes of a config."""
    head = cfg.model.decode_head
    head = head.get('seg_head', head) if isinstance(head, dict) else head
    head = head[-1] if isinstance(head, (list, tuple)) else head
    return head['num_classes']
