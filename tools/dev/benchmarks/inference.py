"""Suite `inference`: an image at scales 0.5, 1 and 2, to classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmseg.models import SegTTAModel
from torch import Tensor, nn

from hmsa_mmseg.models import prepare_for_inference

from .cases import (
    Case,
    Options,
    graph_difference,
    logits_difference,
    must_be_equal,
    wrong_classes,
)
from .networks import (
    SCALES,
    STOCK,
    build,
    build_stock,
    config_for,
    images,
    reference_networks,
    set_fast,
)
from .page import Limit, size_text
from .steps import can_have_graphs, must_have_a_graph
from .tta import STOCK as TTA
from .tta import views

TITLE = 'Inference'
NOTE = """\
One image at scales 0.5, 1 and 2 (mmseg: at 1), from the normalised image to
the class of every pixel. Plain and fast: with full logits as well, as mmseg
keeps them; classes: `test_cfg.classes_only`; prepared:
`prepare_for_inference`, which folds BN and takes channels_last; graph: its
`cuda_graph`, with the difference of its logits to eager ones. mmseg's TTA
begins with the views, in uint8. Difference: of the largest logit, or the share
of other classes."""
FASTEST = 'fast, classes, prepared'
GRAPH = 'fast, classes, prepared, graph'
LIMITS = [
    Limit('CPU time of inference', '', FASTEST, 'cpu_ratio', 0.70),
    *(
        Limit(what, f'1024x2048, {dtype}', GRAPH, *limit, on_gpu=True)
        for dtype in ('bfloat16', 'float16')
        for what, *limit in [
            ("three scales over the authors' way", 'ratio', 0.4),
            ("three scales over mmseg's TTA", 'ms', 0.25, TTA),
        ]
    ),
]
# Of the largest logit; float32 rounds in another order, and BN folded into
# weights rounds those. In half precision nothing is equal to float32.
TOLERANCE = {'float32': 1e-4, 'bfloat16': 0.2, 'float16': 0.05}


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared; at the larger size the main ways alone."""
    first, others = options.timed_size, []
    # A pass of the reference at 1024x2048 takes minutes on two cores.
    if options.device == 'cpu' and not options.is_small:
        others = [(512, 1024)]
    return {
        f'{size_text(size)}, {dtype}': partial(
            _case, size, dtype, options, size == first
        )
        for dtype in options.dtypes
        for size in (first, *others)
    }


class Networks:
    """The networks of a run, with the same weights, and ways to call them."""

    def __init__(self, options: Options, dtype: str) -> None:
        device = options.device
        cfg = config_for(options.size)
        self.model = build(cfg, device)
        if dtype != 'float32':
            self.model.test_cfg['dtype'] = dtype
        self.stock = build_stock(cfg, device)
        self.references = reference_networks(options, self.model)
        self.prepared = prepare_for_inference(copy.deepcopy(self.model))
        self.graphed = prepare_for_inference(
            copy.deepcopy(self.model), cuda_graph=True
        )
        self.tta = SegTTAModel(self.stock).eval().to(device)
        self.calls = 0
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

    def graphed_classes(self, x: Tensor) -> Tensor:
        """The same from a graph, from the second time on."""
        found = self.classes(x, self.graphed)
        if self.calls:
            must_have_a_graph(self.graphed.inference_graphs)
        self.calls += 1
        return found

    def tta_predict(self, data: dict[str, list]) -> Any:
        """What mmseg's tools get of several views."""
        with self._amp():
            return self.tta.test_step(data)

    def stock_predict(self, x: Tensor) -> Any:
        """The same of mmseg's model, which sees one scale."""
        with self._amp():
            return self.stock.predict(x)


def _case(
    size: tuple[int, int], dtype: str, options: Options, is_whole: bool
) -> Case:
    networks = Networks(options, dtype)
    x = images(1, size, options.device)
    ways: dict[str, Callable[[], Any]] = {
        name: lambda name=name: networks.reference(name, x).argmax(dim=1)
        for name in networks.references
    }
    first = next(iter(ways))
    if can_have_graphs(options):
        ways[GRAPH] = lambda: networks.graphed_classes(x)
    ways[FASTEST] = lambda: networks.classes(x, networks.prepared)
    if options.device == 'cuda' or options.is_small:
        data = views(size, SCALES, (False, True), options.device)
        ways[TTA] = lambda: networks.tta_predict(data)
    ways['fast, classes'] = lambda: networks.classes(x, networks.model)
    if options.device == 'cpu':
        ways['fast'] = lambda: networks.predict(x, fast=True)
        ways['plain'] = lambda: networks.predict(x, fast=False)
    ways[STOCK] = lambda: networks.stock_predict(x)
    if not is_whole:
        ways = {way: ways[way] for way in (first, FASTEST)}
    ways = {way: torch.no_grad()(function) for way, function in ways.items()}

    @torch.no_grad()
    def logits(model: nn.Module) -> dict[str, Tensor]:
        return dict(logits=model.encode_decode(x))

    later = partial(
        graph_difference,
        partial(logits, networks.prepared),
        partial(logits, networks.graphed),
    )
    return Case(
        ways,
        check=partial(check, networks, x, dtype) if is_whole else None,
        found_later={GRAPH: later},
    )


# Not in TF32, which keeps ten bits of a product's factors: what is equal up to
# rounding then differs in the third digit.
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
@torch.no_grad()
def check(networks: Networks, x: Tensor, dtype: str) -> dict[str, float]:
    """Compare logits and classes with the reference's; stops if they differ.

    mmseg's model is compared at the one scale that it has.
    """
    tolerance = TOLERANCE[dtype]
    first, *others = networks.references
    expected = networks.reference(first, x)
    found = {
        name: logits_difference(networks.reference(name, x), expected)
        for name in others
    }
    on_gpu = x.device.type == 'cuda'  # where they are not timed
    for way, fast in {} if on_gpu else dict(plain=False, fast=True).items():
        found[way] = logits_difference(networks.logits(x, fast), expected)
    for way, model in {
        'fast, classes': networks.model,
        FASTEST: networks.prepared,
    }.items():
        classes = networks.classes(x, model)
        found[way] = wrong_classes(classes, expected, tolerance)
    scales = networks.model.test_cfg.scales
    networks.model.test_cfg.scales = (1.0,)
    (stock,) = networks.stock_predict(x)
    found[STOCK] = logits_difference(
        stock.seg_logits.data[None], networks.logits(x, fast=False)
    )
    networks.model.test_cfg.scales = scales
    must_be_equal(f'inference, {dtype}', found, tolerance)
    return found
