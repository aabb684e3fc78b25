"""From a config of mmseg's zoo to one of this package.

What is the zoo's stays: data, schedule, losses, optimizer, auxiliary heads,
preprocessing, windows at test time. What changes is listed with the result.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmengine.config import Config, ConfigDict

from hmsa_mmseg.models.scale_fusion import check_scales

from .nested import READ, nested
from .refusals import NotConvertible, check_head, check_segmentor

PACKAGE = 'hmsa_mmseg'
#: At test time, the paper's.
DEFAULT_SCALES = (0.5, 1.0, 2.0)
# What mmseg's EncoderDecoder reads of test_cfg.
_TEST_KEYS = ('mode', 'crop_size', 'stride')
# Layers of mmseg made for one size of image, and ours for any.
_ANY_SIZE = {
    'BEiT': 'AnySizeBEiT',
    'MAE': 'AnySizeMAE',
    'LRASPPHead': 'AnySizeLRASPPHead',
}
# Where a type is found: the zoo's, ours, and why.
_TYPES = {
    'default_hooks.checkpoint': (
        *('CheckpointHook', 'SafeCheckpointHook'),
        'its files load in torch 2.6 and newer',
    ),
    'default_hooks.visualization': (
        *('SegVisualizationHook', 'ScaleMapsVisualizationHook'),
        'draws the pictures of hmsa report',
    ),
    'visualizer': (
        *('SegLocalVisualizer', 'ScaleMapsVisualizer'),
        'draws the pictures of hmsa report',
    ),
}
_FLIPS = [
    dict(type='RandomFlip', prob=prob, direction='horizontal')
    for prob in (0.0, 1.0)
]
# Before which of its steps a test pipeline flips.
_AFTER_FLIPS = ('LoadAnnotations', 'LoadSegLabels', 'PackSegInputs')


class Conversion(NamedTuple):
    """A converted config and what was changed.

    Attributes:
        cfg (Config): Of the settings in :data:`.nested.READ`.
        changes (dict[str, str]): By the dotted key of what was changed, a
            sentence about it.
    """

    cfg: Config
    changes: dict[str, str]

    @property
    def is_multi_scale(self) -> bool:
        """Whether the model has attention over scales."""
        return self.cfg.model.type == 'MultiScaleAttentionSegmentor'


def single_scale(cfg: Config) -> Conversion:
    """Prepare the model of a config, as it is, to be compared with.

    The package's hooks draw what the multi-scale model's run draws, and
    mmcv-lite is enough for mmseg's tools.

    Raises:
        NotConvertible: If there is no multi-scale model of it.
    """
    convert(cfg)
    new = _read_settings(cfg)
    _use_package(new)
    return new


def to_multi_scale(cfg: Config, **kwargs) -> Config:
    """Turn the config of an encoder-decoder into a multi-scale one.

    Returns:
        Config: With our segmentor and head around the model's own.

    Raises:
        NotConvertible: If the model has no place for attention.
        ValueError: If the scales make no sense.
    """
    return convert(cfg, **kwargs).cfg


def convert(
    cfg: Config,
    *,
    train_scales: Sequence[float] = (0.5, 1.0),
    test_scales: Sequence[float] = DEFAULT_SCALES,
) -> Conversion:
    """Turn the config of an encoder-decoder into a multi-scale one.

    Args:
        cfg (Config): Of a training run of mmseg; it is left as it is.
        train_scales (Sequence[float]): Relative image sizes in training, two
            or more. Defaults to (0.5, 1.0), the paper's.
        test_scales (Sequence[float]): Relative image sizes at test time.
            Defaults to (0.5, 1.0, 2.0), the paper's.

    Returns:
        Conversion: The config and what was changed.

    Raises:
        NotConvertible: If the model has no place for attention.
        ValueError: If the scales make no sense.
    """
    check_scales(train_scales, key='train_scales', min_scales=2)
    check_scales(test_scales, key='test_scales', min_scales=1)
    new = _read_settings(cfg)
    _convert_model(new, tuple(train_scales), tuple(test_scales))
    _convert_optimizer(new)
    _use_package(new)
    _flips_only(new)
    return new


def _read_settings(cfg: Config) -> Conversion:
    """Copy what is read of a config, its preprocessor within the model."""
    new = Config({key: copy.deepcopy(cfg[key]) for key in READ if key in cfg})
    if not isinstance(new.get('model'), dict):
        raise NotConvertible(
            f'model={new.get("model")!r}: expected the config of a training '
            'run, whose model is a dict'
        )
    # As mmengine's Runner: what the model has goes first.
    if cfg.get('data_preprocessor') is not None:
        own = copy.deepcopy(cfg.data_preprocessor)
        new.model.setdefault('data_preprocessor', own)
    return Conversion(new, {})


def _convert_model(
    new: Conversion,
    train_scales: tuple[float, ...],
    test_scales: tuple[float, ...],
) -> None:
    model, changes = new.cfg.model, new.changes
    check_segmentor(model)
    seg_head = model.decode_head
    is_cascade = isinstance(seg_head, (list, tuple))
    heads = list(seg_head) if is_cascade else [seg_head]
    for key, part in (
        ('model.backbone.type', model.backbone),
        *(('model.decode_head.seg_head.type', head) for head in heads),
    ):
        name = part.get('type')
        if name in _ANY_SIZE:
            part.type = _ANY_SIZE[name]
            changes[key] = f'was {name}, which is made for one size of image'
    for head in heads:
        check_head(head)
    changes['model.type'] = f'was {model.type}'
    model.type = 'MultiScaleAttentionSegmentor'
    changes['model.decode_head.type'] = "the zoo's decode head is its seg_head"
    model.decode_head = ConfigDict(
        type='HierarchicalMSAttentionHead',
        seg_head=heads if is_cascade else seg_head,
    )
    if is_cascade:
        model.pop('num_stages', None)
        changes['model.decode_head.seg_head'] = (
            'the cascade is a list; each of its heads runs once per scale'
        )
    for name, known in (('train_cfg', ()), ('test_cfg', _TEST_KEYS)):
        for key, value in (model.get(name) or {}).items():
            if key not in known:
                changes[f'model.{name}.{key}'] = (
                    f'{value!r} was left out: no head here reads it'
                )
    test_cfg = dict(model.get('test_cfg') or {})
    is_slide = test_cfg.get('mode') == 'slide'
    model.test_cfg = ConfigDict(
        {
            # Of windows nothing is read without them.
            key: test_cfg[key]
            for key in (_TEST_KEYS if is_slide else ('mode',))
            if key in test_cfg
        }
    )
    model.test_cfg.setdefault('mode', 'whole')
    model.test_cfg.scales = test_scales
    model.train_cfg = ConfigDict(scales=train_scales)
    if 1.0 in train_scales:
        # Those of all scales fit none: docs/training.md.
        model.train_cfg.stats_scale = 1.0
        changes['model.train_cfg.stats_scale'] = (
            'running statistics are those of scale 1'
        )
    changes['model.train_cfg.scales'] = (
        f'{train_scales} in training, {test_scales} at test time'
    )


def _convert_optimizer(new: Conversion) -> None:
    """Let keys of parameters below the decode head find them again."""
    optim_wrapper = new.cfg.get('optim_wrapper') or {}
    paramwise = optim_wrapper.get('paramwise_cfg') or {}
    custom = paramwise.get('custom_keys')
    if not isinstance(custom, Mapping):
        return
    below = 'decode_head.'
    renamed = ConfigDict()
    for key, value in custom.items():
        found = key
        if below in key and not key.endswith(below):
            found = key.replace(below, f'{below}seg_head.', 1)
            new.changes[f'optim_wrapper.paramwise_cfg.custom_keys.{found}'] = (
                f'was {key}'
            )
        renamed[found] = value
    paramwise['custom_keys'] = renamed


def _use_package(new: Conversion) -> None:
    """Import this package, first: it prepares mmcv-lite; and use its hooks."""
    cfg, changes = new
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else imports
    cfg.custom_imports = ConfigDict(
        imports=[PACKAGE, *(name for name in imports if name != PACKAGE)],
        allow_failed_imports=False,
    )
    changes['custom_imports'] = f'{PACKAGE}, which registers its classes'
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    if not hooks.get('checkpoint'):
        by_epoch = (cfg.get('train_cfg') or {}).get('by_epoch', False)
        hooks.checkpoint = ConfigDict(type='CheckpointHook', by_epoch=by_epoch)
    for key, (old, own, why) in _TYPES.items():
        holder = hooks if key.startswith('default_hooks') else cfg
        found = holder.get(key.rpartition('.')[2]) or {}
        if found.get('type') == old:
            found.type = own
            changes[f'{key}.type'] = f'was {old}; {why}'


def _flips_only(new: Conversion) -> None:
    """Let ``--tta`` add flips to what the model's own scales do.

    The zoo's image ratios on top would run each scale of the model once for
    each of them. Sizes are those of the test.
    """
    cfg, changes = new
    pipeline = next(
        (
            one['pipeline']
            for _, one in nested(cfg.get('test_dataloader'))
            if one.get('pipeline')
        ),
        None,
    )
    if pipeline is None:
        return
    first, *rest = copy.deepcopy(list(pipeline))
    rest = [one for one in rest if one.get('type') != 'RandomFlip']
    is_after = [one.get('type') in _AFTER_FLIPS for one in rest]
    place = is_after.index(True) if any(is_after) else len(rest)
    transforms = [[one] for one in rest]
    transforms.insert(place, copy.deepcopy(_FLIPS))
    cfg.tta_pipeline = [
        first,
        ConfigDict(type='TestTimeAug', transforms=transforms),
    ]
    cfg.tta_model = ConfigDict(type='AccumulatingTTAModel')
    changes['tta_pipeline'] = (
        'flips only: the model blends the scales of its test_cfg'
    )
    changes['tta_model'] = (
        'averages logits, one view at a time; was SegTTAModel'
    )
