"""Suite `switches`: training with settings that save memory or time.

``train_cfg.checkpoint``, and ``train_cfg.attention_only`` for a frozen model
of the zoo. That gradients stay what they were is tested in
``tests/test_models/test_segmentors``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mmengine.config import Config

from .cases import SMALL_SIZE, Case, Options
from .networks import load_config, single_scale
from .steps import TrainingStep, meta_step

TITLE = 'Checkpointing, and attention alone'
NOTE = """\
Training at scales 0.5 and 1.0. Checkpointing: relative to `checkpoint` off.
Attention: relative to training the whole hierarchical model; the last row is
the model of mmseg that it wraps, at scale 1.0. Counted: forward and backward
at the size of the crop, in float32 with plain cross-entropy. Times: with the
config's losses and the update of the weights, at 128x256 on a CPU and at the
crop on a GPU."""
LIMITS = []
SMALL = 'hmsa_hr18s_ocr_4xb2-40k_cityscapes-512x1024'
MODELS = {
    'OCRNet HRNet-W48': 'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024',
    'OCRNet HRNet-W18-Small': SMALL,
    'DeepLabV3+ ResNet-50': (
        'hmsa_r50-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024'
    ),
}
CHECKPOINTED = ((), ('scales',), ('backbone',), ('scales', 'backbone'))
# Of the paper; counted, but not timed.
LARGE = (1024, 2048)


def cases(options: Options) -> dict[str, Callable[[], Case]]:
    """What is compared; for ``small`` one model alone."""
    kinds = dict(checkpointing=_checkpointing, attention=_attention)
    found = {
        f'{kind}, {title}': partial(_case, cfgs_of, name, options)
        for title, name in MODELS.items()
        for kind, cfgs_of in kinds.items()
        if name == SMALL or not options.is_small
    }
    if not options.is_small:
        name = MODELS['OCRNet HRNet-W48']
        found['checkpointing, OCRNet HRNet-W48, 1 x 1024x2048'] = partial(
            _large_case, name, options
        )
    return found


def _checkpointing(name: str) -> dict[str, Config]:
    return {
        ' + '.join(parts) or 'off': load_config(name, checkpoint=parts)
        for parts in CHECKPOINTED
    }


def _attention(name: str) -> dict[str, Config]:
    return {
        'hierarchical, all of it': load_config(name),
        'attention only': load_config(name, attention_only=True),
        'single scale (mmseg)': single_scale(load_config(name)),
    }


def _case(cfgs_of: Callable, name: str, options: Options) -> Case:
    cfgs = cfgs_of(name)
    first = next(iter(cfgs.values()))
    crop, batch = tuple(first.crop_size), first.train_dataloader.batch_size
    size = crop if options.device == 'cuda' else (128, 256)
    if options.is_small:
        crop = size = SMALL_SIZE
    return Case(
        {
            way: TrainingStep('own', cfg, batch, size, options)
            for way, cfg in cfgs.items()
        },
        counted={
            way: meta_step('own', cfg, batch, crop, options)
            for way, cfg in cfgs.items()
        },
    )


def _large_case(name: str, options: Options) -> Case:
    return Case(
        counted={
            way: meta_step('own', cfg, 1, LARGE, options)
            for way, cfg in _checkpointing(name).items()
        }
    )
