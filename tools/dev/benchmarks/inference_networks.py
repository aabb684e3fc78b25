"""The networks of suite `inference`, and the ways to call them.

Shape shorthand in this module:
    N: batch, K: classes, H, W: image size.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hmsa_mmseg.models import prepare_for_inference

from .networks import build, build_stock, config_for, set_fast
from .options import Options
from .reference import reference_networks


class Networks:
    """The networks of a run, with the same weights, and ways to call them.

    Args:
        options (Options): Of the run.
        dtype (str): Type that backbone and heads run in.
    """

    def __init__(self, options: Options, dtype: str) -> None:
        device = options.device
        cfg = config_for(options.size)
        self.model = build(cfg, device)
        if dtype != 'float32':
            self.model.test_cfg['dtype'] = dtype
        self.stock = build_stock(cfg, device)
        self.references = reference_networks(options, self.model)
        self.prepared = prepare_for_inference(copy.deepcopy(self.model))
        self._device, self._dtype = device, getattr(torch, dtype)

    def _amp(self) -> torch.autocast:
        """Half precision for those that have no setting of their own."""
        is_half = self._dtype != torch.float32
        return torch.autocast(self._device, self._dtype, enabled=is_half)

    def reference(self, name: str, x: Tensor) -> Tensor:
        """Logits (N, K, H, W) of one of the references."""
        with self._amp():
            return self.references[name](x)['pred']

    def logits(self, x: Tensor, fast: bool) -> Tensor:
        """Logits (N, K, H, W) of our model."""
        set_fast(self.model, fast)
        return self.model.encode_decode(x)

    def classes(self, x: Tensor, model: nn.Module) -> Tensor:
        """Classes (N, H, W) of our model, nothing else being kept."""
        set_fast(model, True)
        model.test_cfg['classes_only'] = True
        return torch.cat([one.pred_sem_seg.data for one in model.predict(x)])

    def predict(self, x: Tensor, fast: bool) -> Any:
        """What mmseg's tools get: classes and logits of each image."""
        set_fast(self.model, fast)
        self.model.test_cfg['classes_only'] = False
        return self.model.predict(x)

    def stock_predict(self, x: Tensor) -> Any:
        """The same of mmseg's model, which sees one scale."""
        with self._amp():
            return self.stock.predict(x)
