from .checkpoint import check_crc, safe_load
from .files import atomic_file, write_json
from .markdown import markdown_table

__all__ = [
    'atomic_file',
    'check_crc',
    'markdown_table',
    'safe_load',
    'write_json',
]
