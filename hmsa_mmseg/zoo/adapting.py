"""Zoo configs for a user's scales, data and trained model, and their files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from hmsa_mmseg.datasets.class_names import read_classes

from .checkpoint import check_checkpoint
from .configs import find_config
from .conversion import DEFAULT_SCALES, Conversion, convert, single_scale
from .own_data import set_data_root, set_folder, set_num_classes
from .sizes import note_small_images, set_crop_size, set_image_scale
from .training import (
    finetune,
    finetune_scales,
    set_checkpoint,
    train_attention_only,
    training_length,
)
from .writing import next_steps, read_zoo_config, write_config

_TRAINED = {'attention-only': train_attention_only, 'finetune': finetune}


class ZooSettings(NamedTuple):
    """What is asked of a config; what is None stays the zoo's.

    ``kind`` is ``multi-scale``, to be trained as the zoo's model;
    ``single-scale``, the zoo's model itself; of a trained model
    ``attention-only``, its attention, or ``finetune``, all of it. ``scales``
    are by default 0.5, 1 and 2, ``train_scales`` 0.5 and 1, of a trained
    model those of the test and half of the lowest; ``length`` a twentieth of
    the config's. ``image_scale`` is width and height, ``crop_size`` height
    and width.
    """

    checkpoint: str | None = None
    kind: str = 'multi-scale'
    scales: tuple[float, ...] | None = None
    train_scales: tuple[float, ...] | None = None
    length: int | None = None
    num_classes: int | None = None
    reinit_classifier: bool = False
    data_root: str | None = None
    folder: str | None = None
    classes: str | None = None
    image_scale: tuple[int, int] | None = None
    crop_size: tuple[int, int] | None = None

    def check(self) -> None:
        """Raise a ValueError if some exclude or need each other."""
        given = {
            name.replace('_', '-')
            for name, value in self._asdict().items()
            if value not in (None, False)
        } | {self.kind}
        for one, other in (
            ('attention-only', 'checkpoint'),
            ('finetune', 'checkpoint'),
            ('reinit-classifier', 'checkpoint'),
            ('folder', 'classes'),
            ('classes', 'folder'),
        ):
            if one in given and other not in given:
                raise ValueError(f'{one} needs {other}')
        for one, other in (
            # Scales are of the multi-scale model.
            ('single-scale', 'scales'),
            ('single-scale', 'train-scales'),
            # A folder and its classes give them.
            ('folder', 'num-classes'),
            ('folder', 'data-root'),
            # They are for a trained model, which this leaves untrained.
            ('attention-only', 'reinit-classifier'),
            ('finetune', 'reinit-classifier'),
        ):
            if {one, other} <= given:
                raise ValueError(f'{one} excludes {other}')
        for name in ('image_scale', 'crop_size', 'length'):
            value = getattr(self, name)
            least = min(value) if isinstance(value, tuple) else value
            if least is not None and least < 1:
                raise ValueError(f'{name}: expected 1 or more, got {value}')


def adapt(path: Path, settings: ZooSettings) -> Conversion:
    """Convert a config, and change in it what is asked for."""
    settings.check()
    cfg = read_zoo_config(path)
    if settings.kind == 'single-scale':
        new = single_scale(cfg)
    else:
        scales = tuple(settings.scales or DEFAULT_SCALES)
        usual = (0.5, 1.0)
        if settings.kind in _TRAINED:
            usual = finetune_scales(scales)
        new = convert(
            cfg,
            train_scales=settings.train_scales or usual,
            test_scales=scales,
        )
        if settings.reinit_classifier:
            new.cfg.model.decode_head.reinit_classifier = True
    if settings.num_classes is not None:
        set_num_classes(new, settings.num_classes)
    if settings.data_root is not None:
        set_data_root(new, settings.data_root)
    if settings.folder is not None:
        set_folder(new, settings.folder, read_classes(settings.classes))
    if settings.image_scale is not None:
        set_image_scale(new, settings.image_scale)
    if settings.crop_size is not None:
        set_crop_size(new, settings.crop_size)
    if settings.folder is not None:
        note_small_images(new, settings.folder)
    if settings.checkpoint is not None:
        checkpoint = settings.checkpoint
        if os.path.exists(checkpoint):
            checkpoint = os.path.abspath(checkpoint)
        set_checkpoint(new, checkpoint)
    if settings.kind in _TRAINED:
        _TRAINED[settings.kind](new, settings.length)
    return new


def write_adapted(
    config: str,
    settings: ZooSettings,
    out: Path | None = None,
    force: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Write a config as it is asked for, after a look at its checkpoint."""
    source = find_config(config)
    new = adapt(source, settings)
    path = out or Path()
    if path.is_dir() or path.suffix != '.py':
        name = config_name(source.stem, settings.kind, new.cfg)
        path = path / f'{name}.py'
    if path.exists() and not force:
        raise ValueError(f'{path} exists; --force replaces it')
    if settings.checkpoint is not None:
        checked = check_checkpoint(
            new.cfg, settings.checkpoint, settings.reinit_classifier
        )
        report(checked.describe(settings.checkpoint))
    write_config(new, path, source)
    report(f"{path}: the zoo's config, but")
    for key, text in new.changes.items():
        report(f'  {key}: {text}')
    report(next_steps(new, path))
    return path


def config_name(stem: str, kind: str, cfg: Config) -> str:
    """Name a converted config, such as ``hmsa_x_4xb2-attn-only-8k_y``."""
    if kind in _TRAINED:
        unit, length = training_length(cfg)
        text = f'{length}e' if unit == 'max_epochs' else f'{length / 1000:g}k'
        what = f'{kind.replace("attention", "attn")}-{text}'
        # Of `4xb2-amp-160k` the last part.
        stem, count = re.subn(
            r'(_\d+xb?\d+[^_]*?)(-[\d.]+[ke])?(?=_|$)',
            rf'\1-{what}',
            stem,
            count=1,
        )
        stem = stem if count else f'{stem}_{what}'
    return f'{"single" if kind == "single-scale" else "hmsa"}_{stem}'
