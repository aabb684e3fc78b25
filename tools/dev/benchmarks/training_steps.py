"""Training steps of whole configs, with and without a switch."""

import copy
import sys
from pathlib import Path

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

import torch
from fusion.costs import step_on_meta, training_step
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

from .measure import (
    count_flops,
    interleaved,
    machine,
    median_ms,
    pair_ratios,
    peak_live_bytes,
)

CONFIGS = Path(__file__).parents[3] / 'configs' / 'hmsa'
SIZES = dict(small=(64, 128), full=(128, 256))


def load_config(name, crop_size=None, **train_cfg):
    """Load a config of this repository by name, without its pretraining.

    Args:
        name (str): Name of a file in ``configs/hmsa``, without ``.py``.
        crop_size (tuple[int, int], optional): Instead of the config's.
        **train_cfg: Settings for ``model.train_cfg``.

    Returns:
        mmengine.Config: The config.
    """
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.model.train_cfg.update(train_cfg)
    if crop_size is not None:
        cfg.crop_size = crop_size
    return cfg


def single_scale(cfg):
    """Turn a config into the model of mmseg that it wraps.

    Args:
        cfg (mmengine.Config): With a ``MultiScaleAttentionSegmentor``.

    Returns:
        mmengine.Config: With an ``EncoderDecoder`` or, around a list of seg
        heads, a ``CascadeEncoderDecoder``.
    """
    cfg = copy.deepcopy(cfg)
    head = cfg.model.decode_head.seg_head
    cfg.model.decode_head = head
    cfg.model.type = 'EncoderDecoder'
    if isinstance(head, list):
        cfg.model.type = 'CascadeEncoderDecoder'
        cfg.model.num_stages = len(head)
    cfg.model.train_cfg = dict()
    cfg.model.test_cfg = dict(mode='whole')
    return cfg


def measure(variants, batch_size, rounds, time_size):
    """Measure the training step of some configs that differ in one thing.

    Args:
        variants (dict[str, mmengine.Config]): By name; the first is what the
            others are compared with.
        batch_size (int): Images in a step.
        rounds (int): Rounds of the timing, 0 for none.
        time_size (tuple[int, int]): Image size of the timing; all else is
            of the config's crop.

    Returns:
        dict[str, dict]: For each variant ``gflops`` and ``live_gb`` at the
        crop, ``ms`` at ``time_size`` (None if not timed), and the ratios
        ``flops``, ``memory`` and ``time`` (median, lowest, highest).
    """
    found = {}
    for name, cfg in variants.items():
        step = step_on_meta(cfg, batch_size)
        found[name] = dict(
            gflops=count_flops(step) / 1e9,
            live_gb=peak_live_bytes(step) / 1e9,
            ms=None,
            time=None,
        )
    first = next(iter(variants))
    for row in found.values():
        row['flops'] = row['gflops'] / found[first]['gflops']
        row['memory'] = row['live_gb'] / found[first]['live_gb']
    if rounds:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        steps = {
            name: training_step(cfg, batch_size, time_size, device)
            for name, cfg in variants.items()
        }
        times = interleaved(steps, rounds=rounds, warmup=1)
        for name, row in found.items():
            row['ms'] = median_ms(times[name])
            row['time'] = list(pair_ratios(times, name, first))
    return found


def run_models(models, rounds, size):
    """Measure several models, each in its variants.

    Args:
        models (dict[str, dict]): By title: ``variants``, a function without
            arguments that gives them, ``batch_size``, and, if they are not
            True, ``small``: whether to measure it at ``size='small'``, and
            ``timed``: whether to time it.
        rounds (int): Rounds of the timing.
        size (str): ``small`` or ``full``. On the CPU the timing is of
            :data:`SIZES`, on a GPU of the config's crop.

    Returns:
        dict: ``machine``, ``rounds`` and ``models``.
    """
    found = {}
    for title, model in models.items():
        if size == 'small' and not model.get('small', True):
            continue
        print(f'measuring {title}', file=sys.stderr, flush=True)
        variants = model['variants']()
        crop_size = next(iter(variants.values())).crop_size
        on_gpu = torch.cuda.is_available()
        time_size = crop_size if on_gpu else SIZES[size]
        num_rounds = rounds if model.get('timed', True) else 0
        found[title] = dict(
            crop_size=list(crop_size),
            time_size=list(time_size),
            batch_size=model['batch_size'],
            variants=measure(
                variants, model['batch_size'], num_rounds, time_size
            ),
        )
    return dict(machine=machine(), rounds=rounds, models=found)


def markdown_tables(results):
    """Format what :func:`run_models` gives, one table for each model."""
    lines = []
    for title, model in results['models'].items():
        crop, time_size = (
            'x'.join(map(str, model[key]))
            for key in ('crop_size', 'time_size')
        )
        lines += [
            f'## {title}, {crop}, batch of {model["batch_size"]}',
            '',
            f'| | GFLOP | | memory (GB) | | step time at {time_size} |',
            '| :-- | --: | --: | --: | --: | --: |',
        ]
        for name, row in model['variants'].items():
            time = '-'
            if row['time'] is not None:
                median, low, high = row['time']
                time = f'{median:.2f}x ({low:.2f} to {high:.2f})'
                if low == high:
                    time = f'{median:.2f}x'
            lines.append(
                f'| {name} | {row["gflops"]:.0f} | {row["flops"]:.2f}x '
                f'| {row["live_gb"]:.2f} | {row["memory"]:.2f}x | {time} |'
            )
        lines.append('')
    return '\n'.join(lines)


def gradients(cfg, prepare=lambda model: None):
    """Compute the gradients of one step, for a check before measuring.

    Args:
        cfg (mmengine.Config): The config; weights and batch are random, and
            the same in every call.
        prepare (Callable): What to do to the model before the step.

    Returns:
        dict[str, Tensor]: By parameter name, of those that have one.
    """
    model_cfg = copy.deepcopy(cfg.model)
    model_cfg.pretrained = None
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(model_cfg)).train()
    prepare(model)
    size = (64, 128)
    labels = torch.randint(model.num_classes, (2, 1, *size))
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels
    ]
    losses = model.loss(torch.randn(2, 3, *size), samples)
    total, _ = model.parse_losses(losses)
    total.backward()
    return {
        name: param.grad
        for name, param in model.named_parameters()
        if param.grad is not None
    }
