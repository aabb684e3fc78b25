from .checkpoint import atomic_file, atomic_save, check_crc, safe_load

__all__ = ['atomic_file', 'atomic_save', 'check_crc', 'safe_load']
