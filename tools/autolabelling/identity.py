"""What labels depend on, for the metadata of their folder."""

from __future__ import annotations

import argparse
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from hmsa_mmseg.autolabel.merging import merge
from hmsa_mmseg.autolabel.meta import link_to
from hmsa_mmseg.datasets.autolabel_files import VERSION, round_folder
from hmsa_mmseg.prediction.errors import InferError
from hmsa_mmseg.prediction.label_ids import read_label_ids
from hmsa_mmseg.prediction.predicting import Predictor
from hmsa_mmseg.prediction.settings import digest, file_digest, to_text
from hmsa_mmseg.utils.loading import find_test_set
from hmsa_mmseg.version import __version__

# 255 marks pixels without a label, in files as in training.
_MAX_VALUE = 254
# What results hold beside classes, which does not change those.
_NOT_PREDICTION = ('scale_maps', 'classes_only', 'confidence')
# Of the model's config, what is of training; test_cfg is looked at alone.
_NOT_MODEL = ('test_cfg', 'train_cfg', 'pretrained')


def label_ids_of(
    cfg: Config, predictor: Predictor, label_format: str | None
) -> tuple[str, np.ndarray]:
    """Find the numbers that stand for classes in the files.

    Args:
        cfg (Config): Its test set is looked at.
        predictor (Predictor): Of the run.
        label_format (str, optional): ``labelIds`` or ``trainIds``. Defaults
            to None: the former for the 19 classes of Cityscapes, as the
            authors' program, else the latter.

    Returns:
        tuple[str, np.ndarray]: The format, and int64 (K,).

    Raises:
        InferError: If they are not known or do not fit into eight bits.
    """
    count = len(predictor.classes)
    if count == 1:
        raise InferError(
            f'the model has one class, {predictor.classes[0]}: its labels '
            'would say nothing; expected two or more (mmseg: num_classes=2, '
            'also with out_channels=1)'
        )
    if label_format is None:
        label_format = 'trainIds'
        if _is_cityscapes(cfg) and count == 19:
            label_format = 'labelIds'
    if label_format == 'labelIds':
        label_ids = read_label_ids(cfg, count, '--label-format labelIds')
    else:
        label_ids = np.arange(count)
    if label_ids.max() > _MAX_VALUE:
        raise InferError(
            f'the model has {count} classes, whose numbers in the files are '
            f'up to {label_ids.max()}; expected at most {_MAX_VALUE}, as '
            'labels have eight bits and 255 stands for none'
        )
    return label_format, label_ids


def build_meta(
    cfg: Config,
    args: argparse.Namespace,
    predictor: Predictor,
    label_format: str,
    label_ids: Sequence[int],
) -> dict[str, Any]:
    """Collect what labels depend on.

    Args:
        cfg (Config): With the options of the run.
        args (Namespace): Of the command line.
        predictor (Predictor): Of the run.
        label_format (str): From :func:`label_ids_of`.
        label_ids (Sequence[int]): Likewise.

    Returns:
        dict[str, Any]: ``version``, ``teacher``, ``settings``, ``round``,
        ``previous`` and ``code_version``, of plain types. Device,
        threads and what to do where memory is short are not among it.

    Raises:
        InferError: If the round before is not there or not finished.
        OSError: If the checkpoint cannot be read.
    """
    test_cfg = _prediction_of(cfg.model.get('test_cfg') or {})
    parts = dict(
        model={k: v for k, v in cfg.model.items() if k not in _NOT_MODEL},
        test_cfg=test_cfg,
        pipeline=find_test_set(cfg).get('pipeline')
        or cfg.get('test_pipeline'),
        custom_hooks=cfg.get('custom_hooks'),
    )
    settings = dict(
        scales=list(predictor.scales) or [1.0],
        flip=args.flip,
        dtype=test_cfg.get('dtype') or 'float32',
        mode=test_cfg.get('mode', 'whole'),
        crop_size=None,
        stride=None,
        label_format=label_format,
        label_ids=[int(value) for value in label_ids],
        prob=args.prob,
        layout=args.layout,
        classes=list(predictor.classes),
        palette=predictor.palette,
    )
    if settings['mode'] == 'slide':
        settings.update({k: test_cfg.get(k) for k in ('crop_size', 'stride')})
    return dict(
        version=VERSION,
        teacher=dict(
            checkpoint=os.path.basename(args.checkpoint),
            checkpoint_sha256=file_digest(args.checkpoint),
            config=os.path.basename(args.config),
            config_sha256=digest(parts),
        ),
        settings=json.loads(to_text(settings)),
        round=args.round,
        previous=_previous(Path(args.out), args.round),
        code_version=__version__,
    )


def _prediction_of(test_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``test_cfg`` labels depend on."""
    return {
        key: value
        for key, value in test_cfg.items()
        # None is the default of each.
        if key not in _NOT_PREDICTION and value is not None
    }


def _previous(out: Path, number: int | None) -> dict[str, str] | None:
    """Describe the round before, which must be finished."""
    if number is None or number == 1:
        return None
    before = round_folder(out, number - 1)
    try:
        missing = merge(before).missing
        link = link_to(before, round_folder(out, number))
    except (OSError, ValueError) as error:
        raise InferError(
            f'--round {number}: the labels of the round before are not to be '
            f'read: {error}; expected them in {before}'
        ) from error
    if missing:
        raise InferError(
            f'--round {number}: {len(missing)} images are not labelled in '
            f'{before}, such as {missing[0]}; expected that round to be '
            'finished'
        )
    return link


def _is_cityscapes(cfg: Config) -> bool:
    known = find_test_set(cfg).get('type')
    known = DATASETS.get(known) if isinstance(known, str) else known
    return inspect.isclass(known) and issubclass(known, CityscapesDataset)
