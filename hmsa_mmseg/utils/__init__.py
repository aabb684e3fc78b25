from .checkpoint import check_crc, safe_load
from .files import atomic_file, atomic_save, write_json

__all__ = [
    'atomic_file',
    'atomic_save',
    'check_crc',
    'safe_load',
    'write_json',
]
