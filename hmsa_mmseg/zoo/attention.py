"""Attention for a trained model: its config, its training, what it gains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import get_local_path
from mmengine.runner import Runner, find_latest_checkpoint
from mmseg.registry import RUNNERS
from rich.progress import Progress

from hmsa_mmseg.analysis.scale_scores import Row, score_scales
from hmsa_mmseg.models.scale_fusion import check_scales
from hmsa_mmseg.utils import atomic_file
from hmsa_mmseg.utils.loading import load_model, read_config

from .adapting import ZooSettings, adapt
from .checkpoint import check_checkpoint
from .configs import find_config
from .conversion import DEFAULT_SCALES
from .training import training_length
from .writing import differing_keys, write_config


def add_attention(
    config: str,
    settings: ZooSettings,
    work_dir: Path,
    options: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train the attention of a trained model, and score both.

    What was interrupted goes on where it was.

    Returns:
        dict[str, float]: mIoU of the validation split in percent at a single
        scale, averaged over the scales and blended by attention.
    """
    path = _write_config(config, settings, work_dir, options, report)
    checkpoint = _train(path, work_dir)
    scores = _score(path, checkpoint)
    with atomic_file(work_dir / 'scores.json') as file:
        file.write(json.dumps(scores, indent=2).encode())
    width = max(map(len, scores))
    report(f'{"mIoU on the validation split":{width}}')
    for title, value in scores.items():
        report(f'{title:{width}}  {value:6.2f}')
    report(f'config: {path}\ncheckpoint: {checkpoint}')
    return scores


def _write_config(
    config: str,
    settings: ZooSettings,
    work_dir: Path,
    options: Mapping[str, Any] | None,
    report: Callable[[str], None],
) -> Path:
    """Write the config that trains the attention, after a check of all."""
    source = find_config(config)
    check_scales(settings.scales or DEFAULT_SCALES, '--scales', min_scales=2)
    new = adapt(source, settings)
    cfg = new.cfg
    cfg.merge_from_dict(dict(options or {}))
    if cfg.get('val_dataloader') is None:
        raise ValueError(
            f'{config}: val_dataloader is missing; expected the validation '
            'split that the model is scored on'
        )
    report(check_checkpoint(cfg, cfg.load_from).describe(cfg.load_from))
    path = work_dir / f'hmsa_{source.stem}.py'
    keys = differing_keys(cfg, path) if path.exists() else []
    if keys:
        raise ValueError(
            f'{path} differs in {", ".join(keys)} from what this call would '
            'train; remove it with its checkpoints, or choose another '
            '--work-dir'
        )
    write_config(new, path, source)
    return path


def _train(path: Path, work_dir: Path) -> Path:
    """Train, going on where it was; give the last checkpoint."""
    # Without the name of its file, into which the runner would write.
    cfg = Config(read_config(str(path)).to_dict())
    cfg.work_dir = str(work_dir)
    cfg.runner_type = 'SafeResumeRunner'
    # A first start would resume from the checkpoint of the trained model.
    cfg.resume = find_latest_checkpoint(str(work_dir)) is not None
    # The scores say more, in one pass.
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    name, length = training_length(cfg)
    last = work_dir / f'{name[4:-1]}_{length}.pth'
    if not last.exists():
        RUNNERS.build(cfg).train()
    return last


def _score(path: Path, checkpoint: Path) -> dict[str, float]:
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
        return _score_rows(cfg, str(checkpoint), {**before, **after})
    old = Config(cfg.to_dict(), filename=cfg.filename)
    old.model.decode_head = dict(
        type='MultiScaleAverageHead', seg_head=cfg.model.decode_head.seg_head
    )
    with get_local_path(cfg.load_from) as file:
        found = _score_rows(old, str(file), before)
    return {**found, **_score_rows(cfg, str(checkpoint), after)}


def _score_rows(
    cfg: Config, checkpoint: str, rows: dict[str, Row]
) -> dict[str, float]:
    model = load_model(cfg, checkpoint).to(get_device())
    loader = Runner.build_dataloader(cfg.val_dataloader)
    with Progress() as bar:
        task = bar.add_task('score', total=len(loader.dataset))
        step = partial(bar.advance, task)
        found = score_scales(model, loader, [*rows.values()], step)
    return {name: found.rows[row]['mIoU'] for name, row in rows.items()}
