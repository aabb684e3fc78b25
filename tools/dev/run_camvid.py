"""Train, score and compare ways to fuse scales on CamVid, on the CPU.

A single scale and a hierarchical model from the same ImageNet weights; and
what comes of the trained single scale: trained on at one scale or at several,
or with attention alone. Trainings are mmseg's train.py, one thread each; what
was interrupted goes on where it was, and what is done is not done again.
"""

import argparse
import json
import resource
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple, Optional

from camvid.report import write_report
from demo.methods import write_json
from demo.running import lock_folder, mmseg_tools, run_logged

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'camvid'
NAME = '{}_efficientnet-lite0_fpn_1xb4-{}_camvid-192x256.py'
SINGLE = 'fpn_efficientnet-lite0_1xb4-{}_camvid-192x256.py'
THREE, FOUR = (0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 2.0)


class Job(NamedTuple):
    """A model that is trained and scored.

    Attributes:
        train (str): Name of the config it is trained with.
        test (str): Of the config it is scored with.
        start (str, optional): Key of the job whose model it starts from.
        rows (tuple): Of :class:`hmsa_mmseg.analysis.scale_scores.Row`, as
            tuples.
    """

    train: str
    test: str
    start: Optional[str]
    rows: tuple


ALONE = tuple(('logits', (scale,)) for scale in FOUR)
MEANS = (*ALONE, ('logits', THREE), ('probs', THREE))
BLENDS = (('blend', (0.5, 1.0)), ('blend', THREE), ('blend', FOUR))
FINETUNED = SINGLE.format('finetune-0.4k')
HIER, ATTN, JOINT = (
    NAME.format('hmsa', what)
    for what in ('finetune-0.1k', 'attn-only-0.08k', '2k')
)
EXPLICIT = NAME.format('attnscale', 'finetune-0.1k')
JOBS = {
    'single': Job(SINGLE.format('2k'), FINETUNED, None, MEANS),
    'finetuned': Job(
        FINETUNED,
        FINETUNED,
        'single',
        (
            *MEANS,
            ('probs', (1.0,), True),
            ('logits', THREE, True),
            ('probs', THREE, True),
        ),
    ),
    'attention-single': Job(ATTN, ATTN, 'single', BLENDS),
    'attention': Job(ATTN, ATTN, 'finetuned', BLENDS),
    'hierarchical': Job(HIER, HIER, 'single', (*ALONE, *BLENDS)),
    'explicit': Job(EXPLICIT, EXPLICIT, 'single', (('blend', THREE),)),
    'joint': Job(JOINT, JOINT, None, (*ALONE, *BLENDS)),
}


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--work-dir', type=Path, default='camvid_out')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='SEED'
    )
    parser.add_argument('--jobs', nargs='+', choices=JOBS, default=[*JOBS])
    parser.add_argument(
        '--splits',
        nargs='*',
        choices=('val', 'test'),
        default=['val', 'test'],
        help='to score; none: train only',
    )
    parser.add_argument(
        '--out', type=Path, help='of the report; default: the work dir'
    )
    return parser.parse_args(argv)


class Experiment:
    """The trainings and scores of a folder.

    Args:
        root (Path): Where they are kept.
    """

    def __init__(self, root):
        self.root = root

    def checkpoint(self, key, seed):
        """Where the model of a job ends up."""
        cfg = _config(JOBS[key].train)
        name = f'iter_{cfg.train_cfg.max_iters}.pth'
        return self.root / f'{key}-{seed}' / name

    def train(self, key, seed, lock):
        """Train the model of a job, unless it is there."""
        job, checkpoint = JOBS[key], self.checkpoint(key, seed)
        if checkpoint.exists():
            return
        if job.start is not None:
            self.train(job.start, seed, lock)
        print(f'{key}, seed {seed}: train', flush=True)
        folder = checkpoint.parent
        options = [f'randomness.seed={seed}']
        # Scored afterwards, which is no part of what training takes.
        for part in ('cfg', 'dataloader', 'evaluator'):
            options.append(f'val_{part}=None')
        if job.start is not None:
            options.append(f'load_from={self.checkpoint(job.start, seed)}')
        tool, config = mmseg_tools() / 'train.py', CONFIGS / job.train
        command = [sys.executable, tool, config, '--work-dir', folder]
        folder.mkdir(parents=True, exist_ok=True)
        # The first start would resume from what `load_from` names.
        if any(folder.glob('iter_*.pth')):
            command.append('--resume')
        else:
            (folder / 'seconds.json').unlink(missing_ok=True)
        command += ['--cfg-options', *options]
        before = _child_seconds()
        try:
            run_logged(
                [str(part) for part in command], folder / 'log', 1, lock
            )
        finally:  # the time of an interrupted training counts, too
            path = folder / 'seconds.json'
            spent = json.loads(path.read_text()) if path.exists() else 0
            write_json(path, round(spent + _child_seconds() - before, 1))

    def score(self, key, seed, split):
        """Score the model of a job on a split."""
        print(f'{key}, seed {seed}: score on {split}', flush=True)
        scores = score(JOBS[key], self.checkpoint(key, seed), split)
        write_json(self._scores(key, seed, split), scores)

    def unscored(self, key, seed, splits):
        """List those of some splits that a job was not scored on."""
        return [s for s in splits if not self._scores(key, seed, s).exists()]

    def _scores(self, key, seed, split):
        return self.root / f'{key}-{seed}' / f'{split}.json'


def score(job, checkpoint, split):
    """Score all rows of a job.

    Args:
        job (Job): Whose rows are scored.
        checkpoint (Path): Its model.
        split (str): ``val`` or ``test``.

    Returns:
        dict: ``rows`` with ``mIoU`` and ``IoU`` by the names of the rows,
        ``weights`` by the scales of the blends, and the ``classes``.
    """
    # Not before: they take seconds to import.
    import torch
    from mmengine.runner import Runner

    from hmsa_mmseg.analysis.scale_scores import Row, score_scales
    from hmsa_mmseg.utils.loading import load_model

    torch.set_num_threads(1)
    cfg = _config(job.test)
    model = load_model(cfg, str(checkpoint))
    model.to(memory_format=torch.channels_last)
    loader = Runner.build_dataloader(cfg[f'{split}_dataloader'])
    rows, done, start = [Row(*row) for row in job.rows], [0], time.monotonic()

    def report():
        done[0] += 1
        if done[0] % 25 == 0:
            each = (time.monotonic() - start) / done[0]
            left = each * (len(loader) - done[0])
            print(f'    {done[0]}/{len(loader)}, {left:.0f} s left')

    found = score_scales(model, loader, rows, report)
    return dict(
        classes=list(model.dataset_meta['classes']),
        rows={
            str(row): dict(
                mIoU=round(float(scores['mIoU']), 3),
                IoU=[round(float(iou), 2) for iou in scores['IoU']],
            )
            for row, scores in found.rows.items()
        },
        weights={
            str(Row('blend', scales)): weights.round(4).tolist()
            for scales, weights in found.weights.items()
        },
    )


def _config(name):
    from mmengine.config import Config

    return Config.fromfile(CONFIGS / name)


def _child_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv=None):
    """Run what is not done, and write the report."""
    args = parse_args(argv)
    args.work_dir = args.work_dir.absolute()
    # A plain kill, too, ends the program that is running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    lock = lock_folder(args.work_dir)
    experiment = Experiment(args.work_dir)
    for seed in args.seeds:
        for key in JOBS:
            if key not in args.jobs:
                continue
            left = experiment.unscored(key, seed, args.splits)
            # A model whose scores are there is not needed.
            if left or not args.splits:
                experiment.train(key, seed, lock)
            for split in left:
                experiment.score(key, seed, split)
    starts = {key: job.start for key, job in JOBS.items()}
    out = args.out or args.work_dir
    for path in write_report(args.work_dir, out, starts):
        print(path)


if __name__ == '__main__':
    main()
