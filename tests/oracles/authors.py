"""Loads the authors' network from a checkout of NVIDIA/semantic-segmentation.

Their program needs apex, runx, torchvision and tabulate before it can be
imported, of which its network uses next to nothing: stand-ins take their
place while it is imported. Their files are not changed.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmsa_mmseg.zoo.nvidia_keys import ours_to_nvidia
from oracles.literal_rmi import literal_rmi_loss

# Their top-level packages, and those that stand-ins replace.
_THEIRS = ('config', 'network', 'utils')
_REPLACED = ('apex', 'runx', 'torchvision', 'tabulate')


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


def _float_function(function: Callable) -> Callable:
    """What ``apex.amp.float_function`` does: keep out of half precision."""

    @functools.wraps(function)
    def in_float32(x: Tensor, *args: Any) -> Any:
        return function(x.float() if x.element_size() < 4 else x, *args)

    return in_float32


def _stand_ins() -> dict[str, ModuleType]:
    amp = _module('apex.amp', float_function=_float_function)
    parallel = _module('apex.parallel', SyncBatchNorm=torch.nn.SyncBatchNorm)
    logx = SimpleNamespace(msg=lambda text: None)
    transforms = _module('torchvision.transforms')
    utils = _module('torchvision.utils')
    modules = [
        _module('apex', amp=amp, parallel=parallel),
        amp,
        parallel,
        _module('runx'),
        _module('runx.logx', logx=logx),
        _module('torchvision', transforms=transforms, utils=utils),
        transforms,
        utils,
        _module('tabulate', tabulate=None),
    ]
    return {module.__name__: module for module in modules}


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Make their packages importable, and forget them in the end."""

    def take_out() -> dict[str, ModuleType]:
        names = [
            name
            for name in sys.modules
            if name.partition('.')[0] in (*_THEIRS, *_REPLACED)
        ]
        return {name: sys.modules.pop(name) for name in names}

    before = take_out()
    sys.modules.update(_stand_ins())
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        take_out()
        sys.modules.update(before)


def check_checkout(directory: Path) -> None:
    """Raise a ValueError unless a directory holds their program."""
    wanted = [directory / 'config.py', directory / 'network' / 'ocrnet.py']
    missing = [str(path) for path in wanted if not path.is_file()]
    if missing:
        raise ValueError(
            f'--authors {directory}: expected a checkout of '
            f'NVIDIA/semantic-segmentation, but there is no {missing}'
        )


class AuthorsNetwork(nn.Module):
    """Their ``ocrnet.HRNet_Mscale`` with the weights of a model of ours.

    Args:
        directory (Path): A checkout of their repository.
        model (nn.Module): HRNet-W48 + OCR of this package.
        scales (Sequence[float]): Scales of inference.

    Raises:
        ValueError: If the directory holds something else, or the weights do
            not fit.
    """

    def __init__(
        self,
        directory: Path,
        model: nn.Module,
        scales: Sequence[float] = (0.5, 1.0, 2.0),
    ) -> None:
        super().__init__()
        check_checkout(directory)
        state = model.state_dict()
        device = next(iter(state.values())).device
        with _importable(directory):
            cfg = importlib.import_module('config').cfg
            # What their assert_and_infer_cfg and data sets fill in. Of the
            # version only "1.5 or newer" is asked.
            cfg.OPTIONS.TORCH_VERSION = 2.0
            cfg.MODEL.BNFUNC = nn.BatchNorm2d
            cfg.MODEL.N_SCALES = list(scales)
            cfg.DATASET.NUM_CLASSES = model.num_classes
            cfg.LOSS.SUPERVISED_MSCALE_WT = 0.05
            hrnet = importlib.import_module('network.hrnetv2')
            # numpy dropped `np.int`; the weights are not to be read.
            hrnet.np = SimpleNamespace(int=int, sum=np.sum)
            hrnet.HighResolutionNet.init_weights = lambda self: None
            ocrnet = importlib.import_module('network.ocrnet')
            with torch.device('meta'):
                network = ocrnet.HRNet_Mscale(
                    num_classes=model.num_classes, criterion=_criterion
                )
        if device.type != 'meta':
            network = network.to_empty(device=device)
            _load(network, state)
        self.network = network.eval()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Predict from all scales: what their network returns."""
        return self.network(dict(images=x))

    def loss(self, x: Tensor, label: Tensor) -> Tensor:
        """Train on scales 0.5 and 1.0, with the losses of their recipe.

        Their RMI runs on CUDA alone: it is the formula written down step by
        step, which makes the same maps.
        """
        return self.network(dict(images=x, gts=label))


def _criterion(logits: Tensor, label: Tensor, do_rmi: bool = True) -> Tensor:
    return literal_rmi_loss(logits, label, with_rmi=do_rmi)


def _load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    shapes = {key: value.shape for key, value in state.items()}
    converted = ours_to_nvidia(state, shapes)
    converted.check('the model of this package')
    network.load_state_dict(converted.state_dict)
