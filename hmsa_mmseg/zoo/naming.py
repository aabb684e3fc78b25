"""File names of converted configs, by mmseg's grammar.

``{algorithm}_{components}_{training}_{dataset-crop}``: the algorithm is
``hmsa`` and the components are the backbone, then the head.
"""

from __future__ import annotations

import re

# Algorithms of the zoo that are heads or necks, not backbones, as they stand
# at the start of its names.
_HEADS = frozenset(
    (
        *('ann', 'apcnet', 'ccnet', 'danet', 'deeplabv3', 'deeplabv3plus'),
        *('dmnet', 'dnl', 'dpt', 'emanet', 'encnet', 'fastfcn', 'fcn'),
        *('fcn-d6', 'fpn'),
        *('gcnet', 'icnet', 'isanet', 'knet-s3', 'nonlocal', 'ocrnet'),
        *('psanet', 'pspnet', 'segformer', 'segmenter', 'segnext', 'setr'),
        'upernet',
    )
)
_SHORT = {'ocrnet': 'ocr'}
_TRAINING = re.compile(r'\d+x(b?\d+)')


def config_name(stem: str) -> str:
    """Name of the converted config.

    Args:
        stem (str): Of the zoo's, for example
            ``ocrnet_hr48_4xb2-160k_cityscapes-512x1024``.

    Returns:
        str: For example ``hmsa_hr48_ocr_4xb2-160k_cityscapes-512x1024``.
        The rest of a name that does not begin with a head stays as it is.
    """
    parts = stem.split('_')
    places = [i for i, part in enumerate(parts) if _TRAINING.match(part)]
    end = places[0] if places else len(parts)
    components, rest = parts[:end], parts[end:]
    if len(components) > 1 and components[0] in _HEADS:
        first, *others = components
        components = [*others, _SHORT.get(first, first)]
    return '_'.join(['hmsa', *components, *rest])


def shortened_name(
    name: str, what: str, old: int | None, new: int | None
) -> str:
    """Name of a recipe for a trained model.

    Args:
        name (str): Of the converted config.
        what (str): Of the recipe, such as ``attn-only``.
        old (int, optional): Iterations of the converted config.
        new (int, optional): Those of the recipe.

    Returns:
        str: With ``what`` before the iterations in the training part.
    """
    parts = name.split('_')
    for i, part in enumerate(parts):
        if _TRAINING.match(part):
            if old and new and part.endswith(f'-{old // 1000}k'):
                part = part[: part.rindex('-')]
                length = f'{new // 1000}k' if new % 1000 == 0 else str(new)
                parts[i] = f'{part}-{what}-{length}'
            else:
                parts[i] = f'{part}-{what}'
            return '_'.join(parts)
    return f'{name}_{what}'
