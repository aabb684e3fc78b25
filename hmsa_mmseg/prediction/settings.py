"""When two predictions are of the same settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from hmsa_mmseg.utils.loading import find_test_set

from .errors import PredictionError, in_short
from .predicting import Predictor
from .sources import file_digest

# What results hold beside classes, which does not change those.
_NOT_PREDICTION = ('scale_maps', 'classes_only', 'confidence')
# Of the model's config, what is of training; test_cfg is looked at alone.
_NOT_MODEL = ('test_cfg', 'train_cfg', 'pretrained')


def read_settings(
    cfg: Config, checkpoint: str, predictor: Predictor, flip: bool
) -> dict[str, Any]:
    """Collect what predictions depend on.

    Args:
        cfg (Config): With the options of the run.
        checkpoint (str): Path of the weights.
        predictor (Predictor): Of the run.
        flip (bool): Whether images are flipped, too.

    Returns:
        dict[str, Any]: Of plain types. Names of files, the device, threads,
        the number of images in a batch and what to do where memory is short
        are not among it: they change nothing, or only roundings.

    Raises:
        OSError: If the checkpoint cannot be read.
    """
    test_cfg = {
        key: value
        for key, value in (cfg.model.get('test_cfg') or {}).items()
        # None is the default of each.
        if key not in _NOT_PREDICTION and value is not None
    }
    parts = dict(
        model={k: v for k, v in cfg.model.items() if k not in _NOT_MODEL},
        test_cfg=test_cfg,
        pipeline=find_test_set(cfg).get('pipeline')
        or cfg.get('test_pipeline'),
        custom_hooks=cfg.get('custom_hooks'),
    )
    is_slide = test_cfg.get('mode') == 'slide'
    return as_read_back(
        dict(
            checkpoint_sha256=file_digest(checkpoint),
            config_sha256=digest(parts),
            scales=list(predictor.scales) or [1.0],
            flip=flip,
            dtype=test_cfg.get('dtype') or 'float32',
            mode=test_cfg.get('mode', 'whole'),
            crop_size=test_cfg.get('crop_size') if is_slide else None,
            stride=test_cfg.get('stride') if is_slide else None,
            classes=list(predictor.classes),
            palette=predictor.palette,
        )
    )


def refuse_other(
    path: Path, differing: Mapping[str, tuple[Any, Any]], cure: str
) -> None:
    """Refuse to mix results of different settings.

    Args:
        path (Path): Of the file that tells what there is.
        differing (Mapping): What was, and what is asked for, by keys.
        cure (str): What is expected.

    Raises:
        PredictionError: If anything differs.
    """
    said = ', '.join(
        f'{key} was {in_short(before)}, now it is {in_short(now)}'
        for key, (before, now) in differing.items()
    )
    if said:
        raise PredictionError(
            f'{path}: what is there is of another model or other settings: '
            f'{said}; expected {cure}'
        )


def as_read_back(value: Any) -> Any:
    """Nested plain types as JSON gives them back."""
    return json.loads(_to_text(value))


def digest(value: Any) -> str:
    """SHA-256 of a value of nested plain types."""
    return hashlib.sha256(_to_text(value).encode()).hexdigest()


def _to_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
