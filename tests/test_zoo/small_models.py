"""Models of the zoo, made small: narrow, shallow, without weights."""

from __future__ import annotations

import copy

#: Beside all keys of channel numbers: they are divided alike wherever they
#: stand, so that they go on fitting each other.
WIDTHS = ('embed_dim', 'embed_dims', 'num_groups')
# What cannot be narrowed: these fix their own widths.
FIXED = ('ERFNet', 'MobileNetV2', 'MobileNetV3')
# Of other packages, which have names for their sizes: ConvNeXt-B, S12.
ARCHS = {
    'mmpretrain.ConvNeXt': dict(
        depths=[1] * 4, channels=[128, 256, 512, 1024]
    ),
    'mmpretrain.PoolFormer': dict(
        layers=[1] * 4,
        embed_dims=[64, 128, 320, 512],
        mlp_ratios=[4] * 4,
        layer_scale_init_value=1e-5,
    ),
}
RESNETS = ('ResNet', 'ResNetV1c', 'ResNeSt')


def divided(value, factor: int):
    """Divide a channel number, or a list of them; those of images stay."""
    if isinstance(value, (list, tuple)):
        return type(value)(divided(one, factor) for one in value)
    if isinstance(value, int) and value > 6:
        return max(value // factor, 1)
    return value


def narrowed(cfg, factor: int):
    """Divide all channel numbers of a config; plain BN; nothing loaded."""
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(narrowed(one, factor) for one in cfg)
    if not isinstance(cfg, dict):
        return cfg
    new = {}
    for key, value in cfg.items():
        if key in ('pretrained', 'init_cfg'):
            continue
        if key == 'type' and value == 'SyncBN':
            value = 'BN'
        new[key] = (
            divided(value, factor)
            if key in WIDTHS or 'channels' in key
            else narrowed(value, factor)
        )
    return new


def shallow(cfg):
    """Make a backbone's config shallow."""
    new = dict(cfg)
    if isinstance(new.get('depth'), int):
        new['depth'] = min(new['depth'], 50)
    for key in ('depths', 'num_layers'):
        if isinstance(new.get(key), (list, tuple)):
            new[key] = [1] * len(new[key])
        elif isinstance(new.get(key), int):
            new[key] = 4
            indices = new.get('out_indices', ())
            if isinstance(indices, (list, tuple)) and len(indices) > 1:
                new['out_indices'] = (0, 1, 2, 3)
    if isinstance(new.get('extra'), dict):
        new['extra'] = {
            name: dict(
                stage, num_modules=1, num_blocks=[1] * len(stage['num_blocks'])
            )
            for name, stage in new['extra'].items()
        }
    if isinstance(new.get('backbone_cfg'), dict):
        new['backbone_cfg'] = shallow(new['backbone_cfg'])
    return new


def make_tiny(model, factor: int = 8, image_size: tuple = (64, 64)):
    """Make the config of a model small."""
    if model['backbone']['type'] in FIXED:
        factor = 1
    new = copy.deepcopy(dict(model))
    if new['backbone']['type'] in ARCHS:
        new['backbone']['arch'] = ARCHS[new['backbone']['type']]
    new = narrowed(new, factor)
    new['backbone'] = shallow(new['backbone'])
    for cfg in (new['backbone'], new['backbone'].get('backbone_cfg', {})):
        if cfg.get('type') in RESNETS:
            cfg.setdefault('base_channels', 64 // factor)
            cfg.setdefault('stem_channels', 64 // factor)
        if 'img_size' in cfg:
            cfg['img_size'] = image_size
    return new
