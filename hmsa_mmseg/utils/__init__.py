from .checkpoint import check_crc, safe_load
from .files import atomic_file

__all__ = ['atomic_file', 'check_crc', 'safe_load']
