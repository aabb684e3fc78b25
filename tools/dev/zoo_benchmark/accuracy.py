"""mIoU: evaluated where weights and data are on disk, else published."""

from __future__ import annotations

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from hmsa_mmseg.utils import safe_load
from hmsa_mmseg.zoo.metafile import published

AUTHORS = 'https://github.com/NVIDIA/semantic-segmentation'


class Quoted(NamedTuple):
    """A result of the authors of the method, not measured here.

    Attributes:
        name (str): For people.
        miou (float): In percent, on the 500 images of Cityscapes val unless
            ``remark`` says otherwise.
        extra_data (str): What it was trained on beside Cityscapes' fine
            labels and ImageNet.
        source (str): Where it is stated.
        remark (str): Why it is not comparable with the zoo.
    """

    name: str
    miou: float
    extra_data: str
    source: str
    remark: str


#: HRNet-W48 + OCR at scales 0.5, 1 and 2 without flips.
QUOTED = (
    Quoted(
        'HMSA HRNet-W48 OCR (authors)',
        84.7,
        'Mapillary Vistas',
        'README of the authors, recipe train_cityscapes',
        'pre-trained on Mapillary',
    ),
    Quoted(
        'HMSA HRNet-W48 OCR (authors)',
        86.92,
        'Mapillary Vistas + autolabelled coarse images',
        'README of the authors, eval_cityscapes',
        'the teacher of the labels was trained on val too; 8 GPUs score 496 '
        'of the 500 images',
    ),
)
#: GFLOP of the authors' program for one image of 1024x2048 at three scales,
#: as ``tests/test_tools/test_benchmark_peers.py`` counts them.
AUTHORS_GFLOP = 16063.3


def find_weights(name: str, folder: Path | None) -> Path | None:
    """Find a model's checkpoint on disk; nothing is downloaded.

    Args:
        name (str): Of the config.
        folder (Path, optional): Where to look first: ``<name>.pth``,
            ``<name>_*.pth``, or the file name of the zoo's address. Then the
            latter in the cache of ``torch.hub``, where mmengine keeps what
            it has downloaded.

    Returns:
        Path: The newest such file; None without one.
    """
    known = published().get(name)
    address = known.weights if known is not None else None
    file_name = address.rsplit('/', 1)[-1] if address else None
    if folder is not None:
        found = [*folder.glob(f'{name}.pth'), *folder.glob(f'{name}_*.pth')]
        if file_name is not None:
            found += folder.glob(file_name)
        if found:
            return max(found, key=lambda path: path.stat().st_mtime)
    if file_name is not None:
        cached = Path(torch.hub.get_dir()) / 'checkpoints' / file_name
        if cached.is_file():
            return cached
    return None


def evaluate(
    cfg: Config,
    weights: Path,
    data_root: Path,
    modes: Iterable[str],
    work_dir: Path,
) -> dict[str, float]:
    """Evaluate a model on the test set of its config, as mmseg's test.py.

    Args:
        cfg (mmengine.Config): Of the model.
        weights (Path): A checkpoint that holds all of its weights.
        data_root (Path): Instead of the config's.
        modes (Iterable[str]): Keys of :data:`models.MODES`.
        work_dir (Path): For the logs.

    Returns:
        dict[str, float]: mIoU in percent by mode, of ``IoUMetric``.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If it is damaged or holds no weights.
        RuntimeError: If a weight is missing or left over.
    """
    checkpoint = safe_load(weights)
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise ValueError(f'{weights}: expected a checkpoint with a state_dict')
    found = {}
    for mode in modes:
        runner = Runner.from_cfg(
            _test_config(cfg, mode, data_root, work_dir / mode)
        )
        # With a mode that flips, the segmentor is inside.
        model = getattr(runner.model, 'module', runner.model)
        # Strictly: a head with random weights must not get a score.
        model.load_state_dict(checkpoint['state_dict'])
        found[mode] = float(runner.test()['mIoU'])
    return found


def _test_config(
    cfg: Config, mode: str, data_root: Path, work_dir: Path
) -> Config:
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(work_dir)
    cfg.load_from, cfg.resume, cfg.launcher = None, False, 'none'
    cfg.experiment_name = f'{mode}-{work_dir.parent.name}'
    cfg.model.pretrained = None
    cfg.model.backbone.pop('init_cfg', None)
    dataset = cfg.test_dataloader.dataset
    dataset.data_root = str(data_root)
    # What training needs is not built.
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        cfg.pop(key, None)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key, None)
    cfg.pop('param_scheduler', None)
    if mode == 'single' and 'scales' in (cfg.model.get('test_cfg') or {}):
        cfg.model.test_cfg.scales = (1.0,)
    if mode.endswith('flip'):
        own = mode == 'hierarchical_flip'
        dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(
            type='AccumulatingTTAModel' if own else 'SegTTAModel',
            module=cfg.model,
        )
    return cfg
