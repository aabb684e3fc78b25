"""Suite `counts`: operations, and what tensors hold at once.

Nothing is computed: the figures are of the true size on every machine, and
the same on each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.structures import SegDataSample
from torch import nn

from hmsa_mmseg.models import AccumulatingTTAModel
from hmsa_mmseg.models.tiled.decisions import Decision, decide

from .cases import SMALL_SIZE, Case, Options
from .measure import count_operations, live_gb
from .networks import (
    CITYSCAPES,
    CROSS_ENTROPY,
    MAPILLARY,
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
from .steps import meta_step

TITLE = 'Operations and memory'
NOTE = """\
Counted without values, memory above weights and inputs; of training, forward
and backward, gradients included. Inference is at scales 0.5, 1 and 2, training
at 0.5 and 1 with the losses of the recipe (mmseg: plain cross-entropy);
bfloat16: as autocast casts on a GPU. Attention to scale: both ways in float32
with cross-entropy alone and `fast=False`; the explicit one is trained at the
scales it is tested at (sec. 3 of the paper). File: one image scored at the
size of its file, seen by the network at the authors' long edge of 2177. One
step: the operations that forward and backward dispatch, which on a GPU the
host starts one by one, views and empty tensors left out; memory with bfloat16
autocast."""
# Of the network and of the file.
FILES = dict(small=((96, 144), (200, 300)), full=((1451, 2177), (4000, 6000)))
CHECKPOINT = ('scales', 'backbone')
CHECKPOINTED = 'fast, checkpointing'
AUTOCAST = ', bfloat16'
STEP = 'one step, cross-entropy'
# Recipe -> config, images, their size, and the limits without and with
# checkpointing, in GB and under autocast.
RECIPES = {
    'Cityscapes': (CITYSCAPES, 1, (1024, 2048), 8.8, 3.7),
    'Mapillary': (MAPILLARY, 2, (1024, 1024), 9.0, 3.8),
}
LIMITS = [
    Limit('FLOPs', 'inference', 'fast', 'gflop', 0.62, 'literal'),
    Limit('peak', 'inference', 'fast, classes', 'live_gb', 2.5),
    *(
        Limit(f'peak, {way}', f'training, {title}', way, 'live_gb', limit)
        for title, (*_, plain, light) in RECIPES.items()
        for way, limit in (
            (f'fast{AUTOCAST}', plain),
            (f'{CHECKPOINTED}{AUTOCAST}', light),
        )
    ),
    Limit(
        *('dispatched operations of an eager step', f'{STEP}, 2', 'fast'),
        *('operations', 5600),
        on_gpu=True,
    ),
    Limit(
        *("counted peak over mmseg's, bfloat16", f'{STEP}, 1', 'fast'),
        *('live_gb', 1.0, STOCK),
        on_gpu=True,
    ),
]


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared."""
    size = size_text(options.true_size)
    found = {f'inference, {size}': partial(_inference, options)}
    for title, (_, batch, size, *_) in RECIPES.items():
        size = SMALL_SIZE if options.is_small else size
        found[f'training, {title} {batch} x {size_text(size)}'] = partial(
            _training, options, title, size
        )
    found['training, attention to scale'] = lambda: Case(
        counted=attention_to_scale(options)
    )
    for batch, size in ((1, (1024, 2048)), (2, (512, 1024))):
        size = SMALL_SIZE if options.is_small else size
        title = f'{STEP}, {batch} x {size_text(size)}'
        found[title] = partial(_one_step, options, batch, size)
    size, file_size = map(size_text, FILES[options.size])
    found[f'file of {file_size}, seen at {size}'] = partial(_file, options)
    return found


def _inference(options: Options) -> Case:
    cfg = config_for(options.size)
    model, stock = build(cfg, 'meta'), build_stock(cfg, 'meta')
    x = images(1, options.true_size, 'meta')
    metas = [dict(img_shape=options.true_size)]

    def logits(fast: bool) -> None:
        set_fast(model, fast)
        model.encode_decode(x)

    functions: dict[str, Callable[[], Any]] = {
        name: lambda network=network: network(x)
        for name, network in reference_networks(options, model).items()
    }
    functions['plain'] = lambda: logits(False)
    functions['fast'] = lambda: logits(True)
    functions['fast, classes'] = lambda: classes(model, x)
    functions[STOCK] = lambda: stock.encode_decode(x, metas)
    return Case(counted=_without_gradients(functions))


def _without_gradients(functions: dict) -> dict:
    return {way: torch.no_grad()(run) for way, run in functions.items()}


def classes(model: Any, x: torch.Tensor) -> Decision:
    """Predict classes alone, the fast way."""
    set_fast(model, True)
    return decide(model.predict_rows(x), torch.uint8, None)


def _training(options: Options, title: str, size: tuple[int, int]) -> Case:
    recipe, batch, *_ = RECIPES[title]
    cfg = config_for(options.size, recipe)
    light = config_for(options.size, recipe, checkpoint=CHECKPOINT)
    has_authors = options.authors is not None and not options.is_small
    ways = {
        **(dict(authors=('authors', cfg)) if has_authors else {}),
        'literal': ('literal', cfg),
        'fast': ('fast', cfg),
        CHECKPOINTED: ('fast', light),
        STOCK: (STOCK, cfg),
    }
    functions = {}
    for way, (name, of) in ways.items():
        for autocast in (False, True):
            functions[way + autocast * AUTOCAST] = meta_step(
                name, of, batch, size, options, autocast
            )
    return Case(counted=functions)


def _one_step(options: Options, batch: int, size: tuple[int, int]) -> Case:
    cfg = config_for(options.size, CROSS_ENTROPY)

    def step(way: str, autocast: bool) -> Callable[[], None]:
        return meta_step(way, cfg, batch, size, options, autocast)

    return Case(
        facts={
            way: dict(
                operations=count_operations(step(way, False)),
                live_gb=live_gb(step(way, True)),
            )
            for way in (STOCK, 'plain', 'fast')
        }
    )


def attention_to_scale(options: Options) -> dict[str, Callable[[], Any]]:
    """Training with explicit and with hierarchical attention."""
    hierarchical = config_for(options.size)
    explicit = config_for(options.size, scales=SCALES)
    head = explicit.model.decode_head
    head.update(type='AttentionToScaleHead', num_scales=3)
    explicit.model.test_cfg.scales = SCALES
    cfgs = dict(hierarchical=hierarchical, explicit=explicit)
    return {
        title: meta_step('plain', cfg, 1, options.true_size, options)
        for title, cfg in cfgs.items()
    }


def _file(options: Options) -> Case:
    """One image, scored at the size of its file, by mmseg and by us."""
    size, ori_shape = FILES[options.size]
    model = build(config_for(options.size, MAPILLARY), 'meta')
    model.data_preprocessor = _Stacked()
    stock = copy.copy(model)
    stock.test_cfg = {**model.test_cfg, 'classes_only': False}
    stock.predict = lambda inputs, samples: EncoderDecoder.postprocess_result(
        stock, stock.encode_decode(inputs), samples
    )
    ours = copy.copy(model)
    ours.test_cfg = {**model.test_cfg, 'confidence': True}
    image = torch.empty(3, *size, device='meta')

    def samples(*flips: str | None) -> list[SegDataSample]:
        meta = dict(ori_shape=ori_shape, img_path='', img_shape=size)
        return [
            SegDataSample(
                metainfo=dict(meta, flip=flip is not None, flip_direction=flip)
            )
            for flip in flips
        ]

    def one() -> dict[str, list]:
        return dict(inputs=[image], data_samples=samples(None))

    def both() -> dict[str, list]:
        views = [[one] for one in samples(None, 'horizontal')]
        return dict(inputs=[[image], [image]], data_samples=views)

    stock_tta = SegTTAModel(stock)
    our_tta = AccumulatingTTAModel(model, confidence=True)
    functions = {
        'network to logits': lambda: stock.encode_decode(image[None]),
        "mmseg's results": lambda: stock.test_step(one()),
        'classes, confidence': lambda: ours.test_step(one()),
        "flips, mmseg's SegTTAModel": lambda: stock_tta.test_step(both()),
        'flips, AccumulatingTTAModel, confidence': lambda: our_tta.test_step(
            both()
        ),
    }
    return Case(counted=_without_gradients(functions))


class _Stacked(nn.Module):
    """Stands for a preprocessor: there are no values to prepare."""

    def forward(self, data: dict, training: bool) -> dict:
        """Make a batch of images; of one, without a copy."""
        first, *others = data['inputs']
        inputs = torch.stack([first, *others]) if others else first[None]
        return dict(data, inputs=inputs)
