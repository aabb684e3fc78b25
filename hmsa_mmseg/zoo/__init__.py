from .configs import config_root, families, find_config, list_configs

__all__ = ['config_root', 'families', 'find_config', 'list_configs']
