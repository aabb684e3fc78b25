"""Ways to fuse scales on photographs, on the CPU: docs/camvid.md.

A single scale and a hierarchical model from the same ImageNet weights; and
what comes of the trained single scale: trained on at one scale or at several,
or with attention alone. Data and weights are looked for in ``data``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from driver.commands import CONFIGS, Models, recipe
from driver.jobs import Run

NAME = '{}_efficientnet-lite0_fpn_1xb4-{}_camvid-192x256.py'
SINGLE = 'fpn_efficientnet-lite0_1xb4-{}_camvid-192x256.py'
SPLITS = ('val', 'test')
THREE, FOUR = (0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 2.0)
ALONE = tuple(('logits', (scale,)) for scale in FOUR)
MEANS = (*ALONE, ('logits', THREE), ('probs', THREE))
FLIPS = (
    ('probs', (1.0,), True),
    ('logits', THREE, True),
    ('probs', THREE, True),
)
BLENDS = (('blend', (0.5, 1.0)), ('blend', THREE), ('blend', FOUR))


class Model(NamedTuple):
    """A model that is trained and scored.

    ``rows`` are those of :class:`hmsa_mmseg.analysis.scale_scores.Row`, as
    tuples. Without ``test`` it is scored with the config of its training.
    """

    train: str
    start: str | None
    rows: tuple
    test: str | None = None

    def config(self, split: str | None = None) -> Path:
        """Return the config of its training, or of a score."""
        return CONFIGS / 'camvid' / ((split and self.test) or self.train)


FINETUNED = SINGLE.format('finetune-0.4k')
HIER, ATTN, JOINT = (
    NAME.format('hmsa', what)
    for what in ('finetune-0.1k', 'attn-only-0.08k', '2k')
)
EXPLICIT = NAME.format('attnscale', 'finetune-0.1k')
MODELS = {
    'single': Model(SINGLE.format('2k'), None, MEANS, FINETUNED),
    'finetuned': Model(FINETUNED, 'single', (*MEANS, *FLIPS)),
    'attention-single': Model(ATTN, 'single', BLENDS),
    'attention': Model(ATTN, 'finetuned', BLENDS),
    'hierarchical': Model(HIER, 'single', (*ALONE, *BLENDS)),
    'explicit': Model(EXPLICIT, 'single', (('blend', THREE),)),
    'joint': Model(JOINT, None, (*ALONE, *BLENDS)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this experiment has beside the common options."""
    # One program: their processor times are compared.
    parser.set_defaults(
        work_dir=Path('camvid_out'), seeds=[0, 1, 2], parallel=1
    )
    parser.add_argument(
        '--jobs',
        nargs='+',
        choices=MODELS,
        default=[*MODELS],
        help='the models to train and score',
    )
    parser.add_argument(
        '--splits',
        nargs='*',
        choices=SPLITS,
        default=SPLITS,
        help='to score; none: train only',
    )


def plan(args: argparse.Namespace) -> list[Run]:
    """List the jobs of each seed."""
    paths = {m.config(s) for m in MODELS.values() for s in (None, 'val')}
    runs = []
    for seed in args.seeds:
        root = args.work_dir / f'seed{seed}'
        run = Run(root, dict(recipe=recipe(paths), seed=seed), cwd=Path.cwd())
        models = Models(run, seed)
        for key, model in MODELS.items():
            models.train(
                *(key, model.config()),
                start=model.start,
                # Scored afterwards, which is no part of what training takes.
                options=[
                    f'val_{part}=None'
                    for part in ('cfg', 'dataloader', 'evaluator')
                ],
                # A model whose scores are there is not needed.
                wanted=key in args.jobs and not args.splits,
            )
            for split in SPLITS:
                wanted = key in args.jobs and split in args.splits
                _add_score(run, models, key, split, wanted)
        runs.append(run)
    return runs


def _add_score(
    run: Run, models: Models, key: str, split: str, wanted: bool
) -> None:
    out = run.root / key / f'{split}.json'
    command = [sys.executable, '-m', 'camvid.score', key]
    command += [models.checkpoint(key), split, out]
    run.add(
        *(f'score {key} on {split}', lambda: command, out, [f'train {key}']),
        finish=lambda: json.loads(out.read_text()),
        wanted=wanted,
    )
