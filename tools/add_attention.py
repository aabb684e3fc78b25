"""Give a trained model attention over scales, and see what it gains.

    python tools/add_attention.py my_config.py my_checkpoint.pth

trains nothing but an attention branch, at all scales that the test uses and
half of the lowest, on images of the size of the test, and scores the model on
the validation split: at one scale as it was, averaged over the scales, and
blended by attention. It takes any config of mmseg whose model ends in a
classifier, and a checkpoint of it. The work folder then holds the config of
the new model and its checkpoint, for train.py, test.py and all tools. What
was interrupted goes on where it was.

--finetune trains all of the model on, which takes longer.

On several GPUs: from_zoo.py --attention-only or --finetune writes the same
config for train.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.fileio import get_local_path
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.utils import ProgressBar

import hmsa_mmseg  # noqa: F401  (registers the classes)

# isort: split

from mmseg.registry import RUNNERS

from hmsa_mmseg.analysis.scale_scores import Row, score_scales
from hmsa_mmseg.models.scale_fusion import check_scales
from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.loading import load_model, read_config
from hmsa_mmseg.zoo import convert, find_config
from hmsa_mmseg.zoo.adaptation import (
    finetune,
    finetune_scales,
    set_checkpoint,
    train_attention_only,
    training_length,
)
from hmsa_mmseg.zoo.checkpoint import check_checkpoint
from hmsa_mmseg.zoo.conversion import DEFAULT_SCALES
from hmsa_mmseg.zoo.writing import (
    differing_keys,
    header,
    read_zoo_config,
    write_config,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='of the trained model')
    parser.add_argument('checkpoint', help='of the trained model')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='for config, checkpoints and scores. Default: '
        'work_dirs/attention_ and the name of the config',
    )
    parser.add_argument(
        '--scales',
        type=float,
        nargs='+',
        default=DEFAULT_SCALES,
        help='relative image sizes. Default: 0.5 1.0 2.0',
    )
    parser.add_argument(
        '--finetune',
        action='store_true',
        help='train all of the model, not attention alone',
    )
    parser.add_argument(
        '--iters',
        type=int,
        help='iterations, or epochs where the config counts those. Default: '
        "a twentieth of the config's",
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the new config, in xxx=yyy format',
    )
    args = parser.parse_args(argv)
    if args.iters is not None and args.iters < 1:
        parser.error(f'--iters: expected 1 or more, got {args.iters}')
    return args


def make_config(args: argparse.Namespace, work_dir: Path) -> Path:
    """Write the config that trains the attention, after a check of all."""
    source = find_config(args.config)
    scales = check_scales(tuple(args.scales), '--scales', min_scales=2)
    conversion = convert(
        read_zoo_config(source),
        train_scales=finetune_scales(scales),
        test_scales=scales,
    )
    cfg, changes = conversion
    checkpoint = args.checkpoint
    if os.path.exists(checkpoint):
        checkpoint = os.path.abspath(checkpoint)
    set_checkpoint(cfg, checkpoint, changes)
    adapt = finetune if args.finetune else train_attention_only
    adapt(cfg, changes, args.iters)
    cfg.merge_from_dict(args.cfg_options or {})
    if cfg.get('val_dataloader') is None:
        raise ValueError(
            f'{args.config}: val_dataloader is missing; expected the '
            'validation split that the model is scored on'
        )
    print(check_checkpoint(cfg, checkpoint).describe(checkpoint))
    work_dir.mkdir(parents=True, exist_ok=True)
    path = work_dir / f'hmsa_{source.stem}.py'
    if path.exists() and differing_keys(cfg, path):
        raise ValueError(
            f'{path} differs in {", ".join(differing_keys(cfg, path))} from '
            'what this call would train; remove it with its checkpoints, or '
            'choose another --work-dir'
        )
    write_config(conversion, path, header(cfg, source))
    return path


def train(path: Path, work_dir: Path) -> Path:
    """Train, going on where it was; give the last checkpoint."""
    # Without the name of its file, into which the runner would write.
    cfg = Config(read_config(str(path)).to_dict())
    cfg.work_dir = str(work_dir)
    cfg.runner_type = 'SafeResumeRunner'
    # A first start would resume from the checkpoint of the trained model.
    cfg.resume = find_latest_checkpoint(str(work_dir)) is not None
    # The scores below say more, in one pass.
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    name, length = training_length(cfg)
    last = work_dir / f'{name[4:-1]}_{length}.pth'
    if not last.exists():
        RUNNERS.build(cfg).train()
    return last


def score(path: Path, checkpoint: Path) -> dict[str, float]:
    """Score the model on the validation split, in three ways."""
    cfg = read_config(str(path))
    scales = tuple(cfg.model.test_cfg.scales)
    before = {
        'single scale, as it was': Row('logits', (1.0,)),
        'average over the scales': Row('probs', scales),
    }
    after = {'attention over the scales': Row('blend', scales)}
    if cfg.model.train_cfg.get('attention_only'):
        # Its scales by themselves are those of the model that it was.
        return _score(cfg, str(checkpoint), before | after)
    old = Config(cfg.to_dict(), filename=cfg.filename)
    seg_head = cfg.model.decode_head.seg_head
    old.model.decode_head = dict(
        type='MultiScaleAverageHead', seg_head=seg_head
    )
    with get_local_path(cfg.load_from) as file:
        found = _score(old, str(file), before)
    return found | _score(cfg, str(checkpoint), after)


def _score(
    cfg: Config, checkpoint: str, rows: dict[str, Row]
) -> dict[str, float]:
    model = load_model(cfg, checkpoint).to(get_device())
    loader = Runner.build_dataloader(cfg.val_dataloader)
    progress = ProgressBar(len(loader.dataset))
    found = score_scales(model, loader, [*rows.values()], progress.update)
    print()
    return {name: found.rows[row]['mIoU'] for name, row in rows.items()}


def main(argv: list[str] | None = None) -> int:
    """Convert, train and score; 1 on an error."""
    args = parse_args(argv)
    name = Path(args.config).stem
    work_dir = args.work_dir or Path('work_dirs', f'attention_{name}')
    init_default_scope('mmseg')
    try:
        path = make_config(args, work_dir)
        checkpoint = train(path, work_dir)
        scores = score(path, checkpoint)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    with atomic_file(work_dir / 'scores.json') as file:
        file.write(json.dumps(scores, indent=2).encode())
    width = max(map(len, scores))
    print(f'{"mIoU on the validation split":{width}}')
    for title, value in scores.items():
        print(f'{title:{width}}  {value:6.2f}')
    print(f'config: {path}\ncheckpoint: {checkpoint}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
