"""Score a model of CamVid at many scales.

python -m camvid.score MODEL CHECKPOINT SPLIT OUT.json  (in tools/dev)
"""

from __future__ import annotations

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

import argparse
import math

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from hmsa_mmseg.analysis.scale_scores import Row, score_scales
from hmsa_mmseg.utils import write_json
from hmsa_mmseg.utils.loading import load_model

from .experiment import MODELS, SPLITS


def score(cfg: Config, checkpoint: str, split: str, rows: list[Row]) -> dict:
    """Score all rows."""
    model = load_model(cfg, checkpoint)
    model.to(memory_format=torch.channels_last)
    loader = Runner.build_dataloader(cfg[f'{split}_dataloader'])
    done = [0]

    def report():
        done[0] += 1
        if done[0] % 25 == 0:
            print(f'{split}: {done[0]}/{len(loader)}', flush=True)

    found = score_scales(model, loader, rows, report)
    return dict(
        classes=list(model.dataset_meta['classes']),
        rows={
            str(row): dict(
                mIoU=_number(scores['mIoU'], 3),
                IoU=[_number(iou, 2) for iou in scores['IoU']],
            )
            for row, scores in found.rows.items()
        },
        weights={
            str(Row('blend', scales)): [
                [_number(value, 4) for value in of_scale]
                for of_scale in weights
            ]
            for scales, weights in found.weights.items()
        },
    )


def _number(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(float(value), digits)


def main() -> None:
    """Score, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('model', choices=MODELS)
    parser.add_argument('checkpoint')
    parser.add_argument('split', choices=SPLITS)
    parser.add_argument('out')
    args = parser.parse_args()
    model = MODELS[args.model]
    cfg = Config.fromfile(model.config(args.split))
    rows = [Row(*row) for row in model.rows]
    write_json(args.out, score(cfg, args.checkpoint, args.split, rows))


if __name__ == '__main__':
    main()
