"""Measure how many images per second a segmentor predicts.

Takes the arguments of mmseg's tool of this name, which gives no number for
fewer than 200 images and pads them as in training. As the zoo's rules have
it, the time is that of forward pass and post-processing, one image at a
time, without loading.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from torch import nn

from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.loading import build_model, load_model, read_config
from hmsa_mmseg.zoo import find_config

# The first ones are slow; as in mmseg's tool.
NUM_WARMUP = 5


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'config', help='config file path, or the name of one of the zoo'
    )
    parser.add_argument(
        'checkpoint',
        nargs='?',
        default='none',
        help="checkpoint file; 'none', the default: random weights",
    )
    parser.add_argument(
        '--log-interval', type=int, default=50, help='interval of logging'
    )
    parser.add_argument(
        '--work-dir',
        help='where to write the result as JSON. Default: work_dirs/<config>',
    )
    parser.add_argument('--repeat-times', type=int, default=1)
    parser.add_argument(
        '--num-images',
        type=int,
        default=200,
        help='images of a measurement, the first '
        f'{NUM_WARMUP} (of fewer images: the first) of which do not count; '
        'a smaller data set is run through several times. Default: 200',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, in xxx=yyy format',
    )
    args = parser.parse_args(argv)
    for name, least in (
        ('log_interval', 1),
        ('repeat_times', 1),
        ('num_images', 2),
    ):
        value = getattr(args, name)
        if value < least:
            option = f'--{name.replace("_", "-")}'
            parser.error(f'{option}: expected {least} or more, got {value}')
    return args


def batches(cfg: Config, number: int) -> Iterator[Any]:
    """Yield batches of one image, from the start again as often as needed."""
    loader = Runner.build_dataloader(copy.deepcopy(cfg.test_dataloader))
    if len(loader) == 0:
        raise ValueError(
            f'{cfg.filename}: test_dataloader.dataset holds no image'
        )
    while True:
        for batch in loader:
            yield batch
            number -= 1
            if number == 0:
                return


def seconds_per_image(
    model: nn.Module, cfg: Config, number: int, log_interval: int
) -> list[float]:
    """Run a model over images.

    Args:
        model (nn.Module): In evaluation mode.
        cfg (Config): With ``test_dataloader``, of batch size 1.
        number (int): Of images, 2 or more.
        log_interval (int): Images from one line of progress to the next.

    Returns:
        list[float]: Of each image that counts.
    """
    skipped = NUM_WARMUP if number > NUM_WARMUP else 1
    times = []
    for i, batch in enumerate(batches(cfg, number)):
        data = model.data_preprocessor(batch, False)
        _synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            model(data['inputs'], data['data_samples'], mode='predict')
        _synchronize()
        elapsed = time.perf_counter() - start
        if i >= skipped:
            times.append(elapsed)
        if (i + 1) % log_interval == 0 and times:
            fps = len(times) / sum(times)
            print(
                f'Done image [{i + 1:<3}/ {number}], fps: {fps:.2f} img / s',
                flush=True,
            )
    return times


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(
    model: nn.Module, cfg: Config, args: argparse.Namespace
) -> dict[str, Any]:
    """Measure ``args.repeat_times`` times.

    Returns:
        dict: What is written as JSON: mmseg's keys, and what was measured.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        model = model.cuda()
        torch.cuda.reset_peak_memory_stats()
    result = dict(config=args.config, unit='img / s')
    fps, medians = [], []
    for run in range(1, args.repeat_times + 1):
        print(f'Run {run}:', flush=True)
        times = seconds_per_image(
            model, cfg, args.num_images, args.log_interval
        )
        fps.append(len(times) / sum(times))
        medians.append(1e3 * float(np.median(times)))
        print(f'Overall fps: {fps[-1]:.2f} img / s\n', flush=True)
        result[f'overall_fps_{run}'] = _rounded(fps[-1])
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return dict(
        result,
        average_fps=_rounded(np.mean(fps)),
        fps_variance=_rounded(np.var(fps)),
        median_ms=_rounded(np.median(medians)),
        images_timed=len(times),
        device=torch.cuda.get_device_name() if on_gpu else 'cpu',
        threads=torch.get_num_threads(),
        peak_memory_mb=None if peak is None else _rounded(peak / 1e6),
        torch=torch.__version__,
    )


def _rounded(value: float) -> float:
    """Four digits: a slow model makes hundredths of an image per second."""
    return float(f'{value:.4g}')


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; 1 on an error."""
    args = parse_args(argv)
    # Reproducible, as mmseg's figures.
    torch.backends.cudnn.benchmark = False
    has_weights = args.checkpoint.lower() != 'none'
    try:
        cfg = read_config(str(find_config(args.config)), args.cfg_options)
        if cfg.get('test_dataloader') is None:
            raise ValueError(f'{args.config} has no test_dataloader')
        cfg.test_dataloader.batch_size = 1
        if has_weights:
            model = load_model(cfg, args.checkpoint)
        else:
            model = build_model(cfg)
            print('no checkpoint: the weights are random')
        model = revert_sync_batchnorm(model).eval()
        dataset = Runner.build_dataloader(
            copy.deepcopy(cfg.test_dataloader)
        ).dataset
        print(
            f'{len(dataset)} images in the test set, {args.num_images} are '
            f'run, {"each" if args.num_images <= len(dataset) else "some"} '
            f'{"once" if args.num_images <= len(dataset) else "repeatedly"}'
        )
        result = measure(model, cfg, args)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    result.update(
        checkpoint=args.checkpoint if has_weights else None,
        images_in_dataset=len(dataset),
    )
    runs = args.repeat_times
    print(f'Average fps of {runs} evaluations: {result["average_fps"]}')
    print(f'The variance of {runs} evaluations: {result["fps_variance"]}')
    if result['peak_memory_mb'] is not None:
        print(f'Peak GPU memory: {result["peak_memory_mb"]} MB')
    work_dir = args.work_dir or Path('work_dirs', Path(args.config).stem)
    path = Path(work_dir, f'fps_{time.strftime("%Y%m%d_%H%M%S")}.json')
    with atomic_file(path) as file:
        file.write(f'{json.dumps(result, indent=4)}\n'.encode())
    print(f'written: {path}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
