from .configs import config_root, families, find_config, list_configs
from .conversion import Conversion, convert, single_scale, to_multi_scale
from .refusals import NotConvertible

__all__ = [
    'Conversion',
    'NotConvertible',
    'config_root',
    'convert',
    'families',
    'find_config',
    'list_configs',
    'single_scale',
    'to_multi_scale',
]
