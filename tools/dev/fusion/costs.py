"""What a training step of each method costs, relative to a single scale.

python -m fusion.costs demo costs.json --size 128 256   (in tools/dev)
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cases import Options
from benchmarks.measure import (
    count,
    interleaved,
    machine,
    median_ms,
    pair_ratios,
    peak_cuda_bytes,
)
from benchmarks.steps import TrainingStep, meta_step
from mmengine.config import Config
from mmseg.utils import register_all_modules

from hmsa_mmseg.utils import write_json

from .experiment import PRESETS, TRAINED


def measure(
    configs: Mapping[str, Path], num: int, size: tuple[int, int], rounds: int
) -> dict[str, Any]:
    """Measure the training step of models, on a GPU where there is one."""
    register_all_modules(init_default_scope=True)
    options = Options()
    cfgs = {key: Config.fromfile(path) for key, path in configs.items()}
    steps = {
        key: TrainingStep('own', cfg, num, size, options)
        for key, cfg in cfgs.items()
    }
    times = interleaved(steps, rounds=rounds, warmup=2)
    models = {}
    for key, cfg in cfgs.items():
        crop = tuple(cfg.crop_size)
        counted = count(meta_step('own', cfg, num, crop, options))
        # After the timing: the optimizer's state is there and does not count.
        is_cuda = options.device == 'cuda'
        peak = peak_cuda_bytes(steps[key]) / 1e6 if is_cuda else None
        models[key] = dict(
            gflops=counted['gflop'],
            live_mb=1e3 * counted['live_gb'],
            ms=median_ms(times[key]),
            cuda_mb=peak,
        )
    single = models['single']
    for key, model in models.items():
        time, low, high = pair_ratios(times, key, 'single')
        model['relative'] = dict(
            flops=model['gflops'] / single['gflops'],
            time=time,
            time_low=low,
            time_high=high,
            cpu_time=pair_ratios(times, key, 'single', clock='cpu')[0],
            memory=model['live_mb'] / single['live_mb'],
            cuda_memory=peak and model['cuda_mb'] / single['cuda_mb'],
        )
    return dict(
        crop_size=list(cfgs['single'].crop_size),
        size=list(size),
        batch_size=num,
        rounds=rounds,
        machine=machine(),
        models=models,
    )


def main() -> None:
    """Measure the models of a comparison and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('preset', choices=PRESETS)
    parser.add_argument('out', type=Path)
    parser.add_argument('--size', type=int, nargs=2, required=True)
    parser.add_argument('--rounds', type=int, default=10)
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    configs = {key: preset.configs[key] for key in TRAINED}
    size = tuple(args.size)
    found = measure(configs, preset.batch_size, size, args.rounds)
    write_json(args.out, found)


if __name__ == '__main__':
    main()
