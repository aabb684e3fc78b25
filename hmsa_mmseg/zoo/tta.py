"""Test-time augmentation for a model that has scales of its own."""

from __future__ import annotations

import copy

from mmengine.config import Config, ConfigDict

_LOAD = ('LoadAnnotations', 'LoadSegLabels')
_FLIPS = [
    dict(type='RandomFlip', prob=0.0, direction='horizontal'),
    dict(type='RandomFlip', prob=1.0, direction='horizontal'),
]


def flips_only(cfg: Config, changes: dict[str, str]) -> None:
    """Let ``--tta`` add flips to what the model's own scales do, in place.

    The zoo's image ratios on top would run each scale of the model once for
    each of them. Sizes are those of ``test_pipeline``.

    Args:
        cfg (Config): With a ``test_pipeline``, or pipelines in its
            dataloaders.
        changes (dict[str, str]): Where to note what was changed.
    """
    pipeline = _pipeline_of_loader(cfg) or cfg.get('test_pipeline')
    if not pipeline:
        return
    first, *rest = copy.deepcopy(list(pipeline))
    transforms = [[one] for one in rest if one.get('type') != 'RandomFlip']
    # Flips come last of what changes the image, as in the zoo.
    place = next(
        (
            i
            for i, group in enumerate(transforms)
            if group[0].get('type') in (*_LOAD, 'PackSegInputs')
        ),
        len(transforms),
    )
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


def _pipeline_of_loader(cfg: Config) -> list | None:
    loader = cfg.get('test_dataloader') or {}
    return (loader.get('dataset') or {}).get('pipeline')
