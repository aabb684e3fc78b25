"""The networks that the benchmarks compare, all with the same weights."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from oracles.authors import AuthorsNetwork
from oracles.literal_network import LiteralNetwork
from torch import Tensor, nn

from .cases import Options

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
CROSS_ENTROPY = 'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024'
CITYSCAPES = 'hmsa_hr48_ocr_8xb1-rmi-amp-175e_cityscapes-1024x2048'
MAPILLARY = 'hmsa_hr48_ocr_8xb2-rmi-amp-200e_mapillary-1024x1024'
# The same cascade of heads on a small backbone, to see that a suite runs.
SMALL = 'hmsa_hr18s_ocr_4xb2-40k_cityscapes-512x1024'
SCALES = (0.5, 1.0, 2.0)
#: Name of mmseg's model among those that are compared.
STOCK = 'mmseg OCRNet, scale 1'

_OURS = 'decode_head.seg_head.'


def load_config(name: str, **train_cfg: Any) -> Config:
    """Load a config of ``configs/hmsa``, with settings of ``train_cfg``."""
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(CONFIGS / 'hmsa' / f'{name}.py')
    cfg.model.train_cfg.update(train_cfg)
    return cfg


def config_for(
    size: str, recipe: str = CITYSCAPES, **train_cfg: Any
) -> Config:
    """Load a recipe; ``small``: with backbone and widths of :data:`SMALL`."""
    cfg = load_config(recipe, **train_cfg)
    if size == 'small':
        small = load_config(SMALL).model
        head = cfg.model.decode_head
        cfg.model.backbone = small.backbone
        for seg_head, other in zip(head.seg_head, small.decode_head.seg_head):
            for key in ('in_channels', 'channels', 'ocr_channels'):
                if key in other:
                    seg_head[key] = other[key]
    return cfg


def single_scale(cfg: Config) -> Config:
    """Turn a config of ours into the model of mmseg that it wraps."""
    cfg = copy.deepcopy(cfg)
    head = cfg.model.decode_head.seg_head
    cfg.model.decode_head = head
    cfg.model.type = 'EncoderDecoder'
    if isinstance(head, list):
        cfg.model.type = 'CascadeEncoderDecoder'
        cfg.model.num_stages = len(head)
    if cfg.model.backbone.type == 'SingleResizeHRNet':
        cfg.model.backbone.type = 'HRNet'
    cfg.model.train_cfg = dict()
    cfg.model.test_cfg = dict(mode='whole')
    return cfg


def build(
    cfg: Config,
    device: str = 'cpu',
    fast: bool = True,
    size: tuple[int, int] | None = None,
) -> nn.Module:
    """Build a model in evaluation mode, with random weights."""
    model_cfg = copy.deepcopy(cfg.model)
    model_cfg.pretrained = None
    model_cfg.backbone.pop('init_cfg', None)
    if size is not None:
        model_cfg.data_preprocessor.size = size
    # Not on `meta`: some constructors read values.
    model = revert_sync_batchnorm(MODELS.build(model_cfg)).eval()
    set_fast(model, fast)
    if device != 'meta':
        model.load_state_dict(random_state(model.state_dict()))
    return model.to(device)


def build_stock(cfg: Config, device: str = 'cpu', **kwargs: Any) -> nn.Module:
    """Build the model of mmseg that a config wraps, with the same weights."""
    model = build(single_scale(cfg), device, **kwargs)
    if device != 'meta':
        state = model.state_dict()
        keys = {key: key.replace('decode_head.', _OURS, 1) for key in state}
        ours = random_state({keys[key]: state[key] for key in state})
        model.load_state_dict({key: ours[keys[key]] for key in state})
    return model


def reference_networks(
    options: Options, model: nn.Module, scales: Sequence[float] = SCALES
) -> dict[str, nn.Module]:
    """Networks with a model's weights, run as the authors run theirs.

    ``authors``, if their program is at hand, whose network has one size, and
    ``literal``.
    """
    networks: dict[str, nn.Module] = {}
    if options.authors is not None and not options.is_small:
        networks['authors'] = AuthorsNetwork(options.authors, model, scales)
    networks['literal'] = LiteralNetwork(model, scales).eval()
    return networks


def set_fast(model: nn.Module, fast: bool) -> None:
    """Switch the fast paths of a model's decode head."""
    if hasattr(model.decode_head, 'fast'):
        model.decode_head.fast = fast


def random_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random values for a state dict, of which each key says its own.

    Convolutions keep the size of what they are given (standard deviation one
    over the root of the number of inputs), and the statistics of BN differ
    from channel to channel, so that a layer left out or taken twice shows.
    """
    return {
        key: _random_value(key, value.shape)
        if value.is_floating_point()
        else torch.zeros_like(value)
        for key, value in state.items()
    }


@cache  # a GPU takes less time for a whole case
def _random_value(key: str, shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    uniform = torch.rand(shape, generator=generator)
    if key.endswith('running_var'):
        return 0.5 + uniform
    normal = torch.randn(shape, generator=generator)
    if len(shape) == 4:
        return normal / shape[1:].numel() ** 0.5
    if key.endswith('weight'):
        return 0.5 + 0.5 * uniform
    return 0.1 * normal


def images(
    batch_size: int, size: Sequence[int], device: str = 'cpu'
) -> Tensor:
    """Random normalised images, (N, 3, H, W)."""
    if device == 'meta':
        return torch.empty(batch_size, 3, *size, device='meta')
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, 3, *size, generator=generator).to(device)


def labels(
    batch_size: int, size: tuple[int, int], num_classes: int, present: int
) -> Tensor:
    """Label maps (N, H, W) in blocks of one class, one pixel in 10 ignored.

    Of the classes at most ``present`` occur; 255 is ignored.
    """
    generator = torch.Generator().manual_seed(0)

    def blocks(side: int, grid: Tensor) -> Tensor:
        grid = grid.repeat_interleave(side, 1).repeat_interleave(side, 2)
        return grid[:, : size[0], : size[1]]

    def grid_size(side: int) -> tuple[int, int, int]:
        return batch_size, -(-size[0] // side), -(-size[1] // side)

    classes = torch.randperm(num_classes, generator=generator)[:present]
    grid = torch.randint(len(classes), grid_size(16), generator=generator)
    label = blocks(16, classes[grid])
    ignored = torch.rand(grid_size(8), generator=generator) < 0.1
    label[blocks(8, ignored)] = 255
    return label


def samples(label: Tensor) -> list[SegDataSample]:
    """Wrap label maps (N, H, W) for mmseg.

    The map of edges is what PIDNet's pipeline adds.
    """
    size = tuple(label.shape[1:])
    return [
        SegDataSample(
            gt_sem_seg=PixelData(data=one[None]),
            gt_edge_map=PixelData(data=(one[None] == 0).long()),
            metainfo=dict(
                ori_shape=size,
                img_shape=size,
                pad_shape=size,
                padding_size=[0, 0, 0, 0],
            ),
        )
        for one in label
    ]
