"""What the figures of the page mean, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .results import measured
from .workloads import RATIOS


def cost_notes(results: Mapping[str, Any]) -> str:
    """What the table of accuracy and cost says."""
    ratios = ', '.join(f'{ratio:g}' for ratio in RATIOS)
    return f"""\
- **mIoU**: Cityscapes val, percent. *published*: from the metafile of the
  installed mmseg, not evaluated here. *evaluated*: these weights, with mmseg's
  `IoUMetric`. *quoted*: said by the authors of the method. `-`: not known.
- **Extra data**: beside Cityscapes' fine labels and ImageNet-1k. Rows with
  other data are **not comparable**: both models of the authors were
  pre-trained on Mapillary Vistas, and the second was also trained on coarse
  images of Cityscapes with automatic labels.
- **Test**: mmseg tests the whole image unless the config says `slide`, at one
  scale, or averages six scales ({ratios}) and their
  flips. A hierarchical model blends the scales of its config by itself;
  *x flip* averages it and its flip. At one scale it runs at scale 1 alone.
- **GFLOP**: 1e9 operations of matrix products and convolutions of one image,
  two for each multiplication with its addition, counted by torch's
  `FlopCounterMode` on the meta device; the same on every machine.
- **GB**: 1e9 bytes, the most that tensors hold at once in the test, weights
  apart, counted without values in float32; buffers that a kernel allocates and
  frees by itself are not seen."""


def time_notes(results: Mapping[str, Any]) -> str:
    """How tests were timed."""
    shared = (
        'From the uint8 image to classes: preprocessor, forward and '
        'post-processing, without loading; random weights, batch 1. '
    )
    if results['device'] == 'cuda':
        return shared + (
            'Milliseconds, mean over up to 200 images, synchronised, '
            '`cudnn.benchmark=False`; the ways to test one model in turns. '
            'GB: `torch.cuda.max_memory_allocated` in 1e9 bytes, weights '
            'included. amp: under autocast to float16.'
        )
    limit = results['max_tflop']
    text = shared + (
        f'Seconds of processor time, all threads together '
        f'({results["threads"]} here), which other programs on the machine '
        'disturb less than the clock; mean of a few rounds, of a single one '
        'where a round takes long, the ways to test one model in turns. Clock '
        'times and numbers of rounds are in the JSON file. '
    )
    if limit is not None:
        text += (
            f'In parentheses: not run, since it takes more than {limit:g} '
            'TFLOP (`--max-tflop`).'
        )
    return text


def training_notes(results: Mapping[str, Any]) -> str:
    """What the table of training says."""
    sizes = {
        'x'.join(map(str, found['measured']['size']))
        for row in results['models']
        for found in measured(row, 'training')
    }
    text = (
        'GFLOP and GB: forward and backward of one batch per GPU at the '
        "config's crop, counted on the meta device with plain cross-entropy, "
        'weights and state of the optimizer apart. Hierarchical models see '
        'two scales. '
    )
    if results['device'] == 'cuda':
        text += (
            "Time and memory of a step with the config's losses and optimizer "
            "at its crop; memory is the zoo's figure, "
            '`torch.cuda.max_memory_allocated`, in 1e9 bytes. '
        )
    elif sizes:
        text += (
            "CPU time of a step with the config's losses and optimizer and "
            f'the same batch at {", ".join(sorted(sizes))}, not at its crop. '
        )
    return text + (
        'zoo: GB is the published memory in training, on other GPUs and '
        'versions.'
    )
