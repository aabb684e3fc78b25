from .checkpoint import atomic_save, safe_load

__all__ = ['atomic_save', 'safe_load']
