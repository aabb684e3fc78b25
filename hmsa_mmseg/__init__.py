"""Hierarchical multi-scale attention for mmsegmentation.

Importing this package registers its classes with mmseg. Where mmcv comes
without compiled operators (mmcv-lite), import it before ``mmseg.models`` or
``mmseg.apis``.
"""

from . import compat
from .version import __version__

compat.prepare()

from . import autolabel, datasets, engine, models, visualization  # noqa: E402
from .known_keys import check_keys_of_classes  # noqa: E402

check_keys_of_classes()

__all__ = [
    '__version__',
    'autolabel',
    'compat',
    'datasets',
    'engine',
    'models',
    'visualization',
]
