"""A converted config that starts from a trained model, and trains shortly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.config import Config, ConfigDict

from hmsa_mmseg.models.scale_fusion import check_scales

from .conversion import Conversion
from .nested import nested
from .refusals import NotConvertible
from .sizes import resize_as_tested

# Their losses read outputs that they and their backbones give in training
# mode alone; what is frozen is not in it.
_NO_FROZEN_LOSS = ('DDRHead', 'PIDHead')
# Of a training's length; of its learning rate, for what is trained and for
# what is new. Measured on CamVid (docs/camvid.md), as are scales and sizes
# below.
SHARE = 1 / 20
FINETUNE_LR, NEW_LR = 0.3, 3.0
# mmengine's schedulers, by what they are called before LR, Momentum or
# ParamScheduler, and their numbers of steps beside begin and end.
_STEPS: dict[str, tuple[str, ...]] = {
    'Constant': (),
    'CosineAnnealing': ('T_max',),
    'CosineRestart': ('periods',),
    'Exponential': (),
    'Linear': (),
    'MultiStep': ('milestones',),
    'OneCycle': ('total_steps',),
    'Poly': (),
    'Step': ('step_size',),
}


def finetune_scales(test_scales: Sequence[float]) -> tuple[float, ...]:
    """Scales at which a trained model is trained on for a test.

    Half of the lowest is among them, so that adding it later is no guess; it
    costs a quarter of the cheapest.
    """
    test_scales = check_scales(test_scales, 'test_scales')
    return (test_scales[0] / 2, *test_scales)


def set_checkpoint(new: Conversion, checkpoint: str) -> None:
    """Start from the weights of a trained model; load no others before."""
    cfg, changes = new
    cfg.load_from = checkpoint
    attention = ' but those of the attention branch, which is new'
    changes['load_from'] = 'all weights' + attention * new.is_multi_scale
    if cfg.model.get('pretrained') is not None:
        cfg.model.pretrained = None
        changes['model.pretrained'] = 'load_from has these weights'
    for key, part in nested(cfg.model, 'model'):
        init_cfg = part.get('init_cfg')
        if isinstance(init_cfg, Mapping) and init_cfg.type == 'Pretrained':
            del part['init_cfg']
            changes[f'{key}.init_cfg'] = (
                'left out, load_from has these weights'
            )


def train_attention_only(new: Conversion, length: int | None = None) -> None:
    """Train the attention branch of a trained model alone, and shortly.

    Images are seen in the size that they are tested at: a random size, times
    each scale, would teach what no test asks.
    """
    for _, part in nested(new.cfg.model.decode_head):
        if part.get('type') in _NO_FROZEN_LOSS:
            raise NotConvertible(
                f'{part.type} cannot be frozen: its loss reads outputs that '
                'it gives in training mode alone; convert it to be trained '
                'as a whole'
            )
    new.cfg.model.train_cfg.attention_only = True
    new.changes['model.train_cfg.attention_only'] = (
        'backbone, heads and statistics stay as they are'
    )
    _train_on(new, length, NEW_LR)


def finetune(new: Conversion, length: int | None = None) -> None:
    """Train all of a trained model, and shortly, as it will be tested.

    Beside images of the test's size: statistics of batch normalisation stay
    as they are, for those of a batch of one scale are not the trained
    model's; a lower learning rate, but for the attention, which is new.
    """
    cfg, changes = new
    cfg.model.train_cfg.norm_eval = True
    changes['model.train_cfg.norm_eval'] = 'statistics stay as they are'
    _train_on(new, length, FINETUNE_LR)
    wrapper = cfg.optim_wrapper
    if 'Decay' in str(wrapper.get('constructor')):
        changes['optim_wrapper.constructor'] = (
            'by layer, not by name: the attention, which is new, learns no '
            'faster than the rest'
        )
        return
    paramwise = wrapper.setdefault('paramwise_cfg', ConfigDict())
    custom = paramwise.setdefault('custom_keys', ConfigDict())
    name = 'decode_head.scale_attn.conv0.weight'
    # mmengine takes the longest key that fits.
    keys = sorted((key for key in custom if key in name), key=len)
    usual = custom[keys[-1]] if keys else {}
    factor = usual.get('lr_mult', 1.0) * NEW_LR / FINETUNE_LR
    custom['decode_head.scale_attn'] = ConfigDict(usual, lr_mult=factor)
    changes[
        'optim_wrapper.paramwise_cfg.custom_keys.decode_head.scale_attn'
    ] = 'the attention is new'


def training_length(cfg: Config) -> tuple[str, int]:
    """Find how long a config trains."""
    for name in ('max_iters', 'max_epochs'):
        value = (cfg.get('train_cfg') or {}).get(name)
        if isinstance(value, int):
            return name, value
    raise ValueError(
        f'train_cfg={cfg.get("train_cfg")!r}: expected max_iters or '
        'max_epochs to shorten'
    )


def _train_on(new: Conversion, length: int | None, lr_factor: float) -> None:
    """Images as tested, a short schedule, and another learning rate."""
    cfg, changes = new
    cfg.model.train_cfg.pop('stats_scale', None)
    changes.pop('model.train_cfg.stats_scale', None)
    resize_as_tested(new)
    name, old = training_length(cfg)
    length = length or max(round(old * SHARE), 1)
    _shorten(cfg, name, length / old)
    cfg.train_cfg[name] = length
    changes['train_cfg'] = (
        f'{name}={length}, was {old}; the schedule is shortened with it'
    )
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    lr = optimizer.get('lr')
    if not isinstance(lr, (int, float)):
        raise ValueError(
            f'optim_wrapper.optimizer.lr={lr!r}: expected a learning rate, '
            f'of which {lr_factor:g} times are taken'
        )
    optimizer.lr = lr * lr_factor
    changes['optim_wrapper.optimizer.lr'] = f'{optimizer.lr}, was {lr}'


def _shorten(cfg: Config, name: str, share: float) -> None:
    """Shorten what a schedule counts in iterations or epochs."""

    def shorten(holder: ConfigDict, *keys: str) -> None:
        for key in keys:
            value = holder.get(key)
            if isinstance(value, (list, tuple)):
                holder[key] = [max(round(one * share), 1) for one in value]
            elif isinstance(value, int) and value > 0:
                holder[key] = max(round(value * share), 1)

    shorten(cfg.train_cfg, 'val_interval', 'val_begin')
    shorten(cfg.default_hooks.checkpoint, 'interval')
    schedulers = cfg.get('param_scheduler') or []
    for one in schedulers if isinstance(schedulers, list) else [schedulers]:
        kind = str(one.get('type'))
        for end in ('LR', 'Momentum', 'ParamScheduler'):
            kind = kind.removesuffix(end)
        if kind not in _STEPS:
            raise ValueError(
                f'param_scheduler: {one.get("type")} cannot be shortened to '
                f'{share:g} of {name}; expected one of '
                f'{", ".join(f"{known}LR" for known in _STEPS)}'
            )
        shorten(one, 'begin', 'end', *_STEPS[kind])
        if 'end' in one:
            # Of two that follow each other the first may last one step.
            one.end = max(one.end, one.get('begin', 0) + 1)
        if kind == 'Exponential':
            # A factor for each step.
            one.gamma = one.gamma ** (1 / share)
