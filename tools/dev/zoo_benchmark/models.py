"""Which models are compared, and what their configs say."""

from __future__ import annotations

# First: it makes the rest of the stack importable.
import hmsa_mmseg  # noqa: F401  # isort: skip

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hmsa_mmseg.zoo import find_config

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
#: What is compared if nothing is asked for.
DEFAULT = (
    'ocrnet_hr48_4xb2-160k_cityscapes-512x1024',
    'hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024',
    'ocrnet_hr18_4xb2-160k_cityscapes-512x1024',
    'hmsa_hr18_ocr_4xb2-160k_cityscapes-512x1024',
    'fcn_hr48_4xb2-160k_cityscapes-512x1024',
    'deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024',
    'hmsa_r50-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024',
    'pspnet_r101-d8_4xb2-80k_cityscapes-512x1024',
    'upernet_r101_4xb2-80k_cityscapes-512x1024',
    'segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
    'hmsa_mit-b0_segformer_8xb1-160k_cityscapes-1024x1024',
    'segformer_mit-b5_8xb1-160k_cityscapes-1024x1024',
    'pidnet-s_2xb6-120k_1024x1024-cityscapes',
    'pidnet-l_2xb6-120k_1024x1024-cityscapes',
)
#: Ways to test, by key: title and whether it is for a model of this package.
MODES = {
    'single': ('one scale', (False, True)),
    'ms_flip': ('6 scales x flip', (False,)),
    'hierarchical': ('hierarchical', (True,)),
    'hierarchical_flip': ('hierarchical x flip', (True,)),
}
#: Those that are measured if nothing else is asked for. The flip of a
#: hierarchical model takes twice the operations of one without.
DEFAULT_MODES = ('single', 'ms_flip', 'hierarchical')


class Model(NamedTuple):
    """A model to be measured.

    Attributes:
        name (str): Of its config, without ``.py``.
        path (Path): Its config.
    """

    name: str
    path: Path


def find_model(name_or_path: str) -> Model:
    """Find a config of this repository or of the installed zoo.

    Args:
        name_or_path (str): A file, or a name with or without ``.py``.

    Returns:
        Model: What was found.

    Raises:
        FileNotFoundError: If nothing was found, with similar names.
    """
    stem = Path(name_or_path).name.removesuffix('.py')
    if not Path(name_or_path).is_file():
        for path in CONFIGS.rglob(f'{stem}.py'):
            if '_base_' not in path.parts:
                return Model(stem, path)
    return Model(stem, find_config(name_or_path).resolve())


def content_hash(cfg: Mapping[str, Any]) -> str:
    """Hash of all that a config says, its bases included."""
    text = json.dumps(cfg, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_hierarchical(cfg: Mapping[str, Any]) -> bool:
    """Whether a model of a config blends scales by itself."""
    return 'scales' in (cfg['model'].get('test_cfg') or {})


def modes_of(cfg: Mapping[str, Any], asked: Iterable[str]) -> list[str]:
    """The ways to test that a model has, of those that are asked for."""
    own = is_hierarchical(cfg)
    return [mode for mode in asked if own in MODES[mode][1]]


def crop_and_batch(cfg: Mapping[str, Any]) -> tuple[tuple[int, int], int]:
    """Crop (H, W) and images on one GPU, as a config trains.

    Raises:
        ValueError: If the config does not say it.
    """
    size = cfg.get('crop_size') or cfg['model']['data_preprocessor'].get(
        'size'
    )
    batch = cfg.get('train_dataloader', {}).get('batch_size')
    if not size or not batch:
        raise ValueError(
            'expected crop_size, or model.data_preprocessor.size, and '
            f'train_dataloader.batch_size; got {size} and {batch}'
        )
    return (int(size[0]), int(size[1])), int(batch)
