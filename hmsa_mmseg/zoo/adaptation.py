"""Changes to a converted config that a user asks for, all in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from hmsa_mmseg.models.scale_fusion import check_scales

from .refusals import NotConvertible
from .sizes import resize_as_tested

# Their losses read outputs that they and their backbones give in training
# mode alone; what is frozen is not in it.
NO_FROZEN_LOSS = ('DDRHead', 'PIDHead')
# Of a training's length; of its learning rate, for what is trained and for
# what is new. Measured on CamVid (docs/camvid.md), as are scales and sizes
# below.
SHARE = 1 / 20
FINETUNE_LR, NEW_LR = 0.3, 3.0


def finetune_scales(test_scales: Sequence[float]) -> tuple[float, ...]:
    """Scales at which a trained model is trained on for a test.

    Half of the lowest is among them, so that adding it later is no guess; it
    costs a quarter of the cheapest.

    Args:
        test_scales (Sequence[float]): Relative image sizes.

    Returns:
        tuple[float]: One more, lowest first.

    Raises:
        ValueError: If the scales make no sense.
    """
    test_scales = check_scales(test_scales, 'test_scales')
    return (test_scales[0] / 2, *test_scales)


def set_num_classes(
    cfg: Config,
    num_classes: int,
    changes: dict[str, str],
    same_classes: bool = True,
) -> list[str]:
    """Set the number of classes of all that have the model's.

    Others stay, such as the two of STDC's boundaries. Weights of other
    classes in losses are left out.

    Args:
        cfg (Config): A converted config.
        num_classes (int): Of the data set.
        changes (dict[str, str]): Where to note what was changed.
        same_classes (bool): Whether classes are the config's if their number
            is. Defaults to True.

    Returns:
        list[str]: Which weights were left out, a line for each loss.

    Raises:
        ValueError: If there is no such number.
    """
    if num_classes < 2:
        raise ValueError(f'num_classes must be 2 or more, got {num_classes}')
    head = cfg.model.decode_head
    old = _num_classes(head)
    keeps_weights = same_classes and num_classes == old
    told: list[str] = []

    def visit(value: Any, key: str) -> None:
        if isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                visit(item, f'{key}.{i}')
        if not isinstance(value, Mapping):
            return
        if value.get('num_classes') == old:
            value['num_classes'] = num_classes
        if value.get('class_weight') is not None and not keeps_weights:
            changes[f'{key}.class_weight'] = _without_weights(value)
            told.append(f'{key}: {changes[f"{key}.class_weight"]}')
        for name in list(value):
            visit(value[name], f'{key}.{name}')

    for name in ('decode_head', 'auxiliary_head'):
        visit(cfg.model.get(name), f'model.{name}')
    for name in cfg:
        # LoadSegLabels counts classes too.
        if name.endswith(('_dataloader', '_pipeline')):
            visit(cfg[name], name)
    if num_classes != old:
        inside = '.seg_head' if 'seg_head' in head else ''
        changes[f'model.decode_head{inside}.num_classes'] = f'was {old}'
    return told


def _without_weights(loss: ConfigDict) -> str:
    """Take the weights of classes out of a loss, and say so."""
    weights = loss.pop('class_weight')
    if isinstance(weights, str):
        text = f'the weights of classes in {weights} were left out'
    else:
        text = f'the weights of {len(weights)} classes were left out'
    if str(loss.get('type')).endswith('ClassWeightedCrossEntropyLoss'):
        # It needs weights; with equal ones both are the same.
        loss.update(type='CrossEntropyLoss', avg_non_ignore=True)
        text += ', and CrossEntropyLoss takes the place of the weighted one'
    return text


def set_data_root(cfg: Config, root: str, changes: dict[str, str]) -> None:
    """Set the folder of the data where it is the config's ``data_root``.

    Args:
        cfg (Config): A converted config.
        root (str): The folder.
        changes (dict[str, str]): Where to note what was changed.

    Raises:
        ValueError: If the config's datasets have several folders.
    """
    old = cfg.get('data_root')
    found: list[dict] = []

    def visit(value: Any) -> None:
        if isinstance(value, Mapping):
            if 'data_root' in value:
                found.append(value)
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for item in value:
                visit(item)

    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        visit(cfg.get(name))
    roots = sorted({str(one['data_root']) for one in found})
    if len(roots) != 1:
        raise ValueError(
            f'the datasets of this config have the folders {roots}; expected '
            'one data_root, set them in the written config'
        )
    for one in found:
        one['data_root'] = root
    cfg.data_root = root
    changes['train_dataloader.dataset.data_root'] = f'was {roots[0]}'
    changes['data_root'] = f'was {old}'


def set_checkpoint(
    cfg: Config, checkpoint: str, changes: dict[str, str]
) -> None:
    """Start from the weights of a trained model; load no others before.

    Args:
        cfg (Config): A converted config.
        checkpoint (str): A file or address.
        changes (dict[str, str]): Where to note what was changed.
    """
    cfg.load_from = checkpoint
    changes['load_from'] = (
        'all weights but those of the attention branch, which is new'
        if 'seg_head' in cfg.model.decode_head
        else 'all weights'
    )
    if cfg.model.get('pretrained') is not None:
        cfg.model.pretrained = None
        changes['model.pretrained'] = 'load_from has these weights'
    _drop_pretrained(cfg.model, 'model', changes)


def _drop_pretrained(value: Any, key: str, changes: dict[str, str]) -> None:
    """Leave out what mmengine would load before ``load_from``."""
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _drop_pretrained(item, f'{key}.{i}', changes)
    if not isinstance(value, Mapping):
        return
    init_cfg = value.get('init_cfg')
    if isinstance(init_cfg, Mapping) and init_cfg.get('type') == 'Pretrained':
        del value['init_cfg']
        changes[f'{key}.init_cfg'] = 'left out, load_from has these weights'
    for name in list(value):
        _drop_pretrained(value[name], f'{key}.{name}', changes)


def train_attention_only(
    cfg: Config, changes: dict[str, str], length: int | None = None
) -> None:
    """Train the attention branch of a trained model alone, and shortly.

    Images are seen in the size that they are tested at: a random size, times
    each scale, would teach what no test asks.

    Args:
        cfg (Config): A converted config, with ``load_from``.
        changes (dict[str, str]): Where to note what was changed.
        length (int, optional): Iterations, or epochs where the config counts
            those. Defaults to None, :data:`SHARE` of the config's.

    Raises:
        NotConvertible: If the losses need parts that would be frozen.
        ValueError: If the config has no schedule, or no learning rate.
    """
    head = cfg.model.decode_head.seg_head
    for one in head if isinstance(head, list) else [head]:
        if one.type in NO_FROZEN_LOSS:
            raise NotConvertible(
                f'{one.type} cannot be frozen: its loss reads outputs that '
                'it gives in training mode alone; convert it to be trained '
                'as a whole'
            )
    cfg.model.train_cfg.pop('stats_scale', None)
    cfg.model.train_cfg.attention_only = True
    changes['model.train_cfg'] = (
        'backbone, heads and statistics stay as they are'
    )
    resize_as_tested(cfg, changes)
    _shorten(cfg, changes, length)
    _scale_lr(cfg, changes, NEW_LR)


def finetune(
    cfg: Config, changes: dict[str, str], length: int | None = None
) -> None:
    """Train all of a trained model, and shortly, as it will be tested.

    Beside images of the test's size: statistics of batch normalisation stay
    as they are, for those of a batch of one scale are not the trained
    model's; a lower learning rate, but for the attention, which is new.

    Args:
        cfg (Config): A converted config, with ``load_from``.
        changes (dict[str, str]): Where to note what was changed.
        length (int, optional): Iterations, or epochs where the config counts
            those. Defaults to None, :data:`SHARE` of the config's.

    Raises:
        ValueError: If the config has no schedule, or no learning rate.
    """
    cfg.model.train_cfg.pop('stats_scale', None)
    cfg.model.train_cfg.norm_eval = True
    changes['model.train_cfg'] = 'statistics stay as they are'
    resize_as_tested(cfg, changes)
    _shorten(cfg, changes, length)
    _scale_lr(cfg, changes, FINETUNE_LR)
    wrapper = cfg.optim_wrapper
    key = 'optim_wrapper.paramwise_cfg.custom_keys.decode_head.scale_attn'
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
    changes[key] = 'the attention is new'


def _scale_lr(cfg: Config, changes: dict[str, str], factor: float) -> None:
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    lr = optimizer.get('lr')
    if not isinstance(lr, (int, float)):
        raise ValueError(
            f'optim_wrapper.optimizer.lr={lr!r}: expected a learning rate, '
            f'of which {factor:g} times are taken'
        )
    optimizer.lr = lr * factor
    changes['optim_wrapper.optimizer.lr'] = f'was {lr}'


def _shorten(cfg: Config, changes: dict[str, str], length: int | None) -> None:
    """Shorten the schedule to ``length``, by default to a share of it."""
    found = training_length(cfg)
    if found is None:
        raise ValueError(
            f'train_cfg={cfg.get("train_cfg")!r}: expected max_iters or '
            'max_epochs to shorten'
        )
    name, old = found
    new = length or max(round(old * SHARE), 1)
    cfg.train_cfg[name] = new
    changes['train_cfg'] = f'was {old}; the schedule is shortened with it'

    def shorten(holder: ConfigDict, key: str) -> None:
        value = holder.get(key)
        if isinstance(value, int) and value > 0:
            holder[key] = max(round(value * new / old), 1)

    for key in ('val_interval', 'val_begin'):
        shorten(cfg.train_cfg, key)
    shorten(cfg.default_hooks.checkpoint, 'interval')
    schedulers = cfg.get('param_scheduler') or []
    for one in schedulers if isinstance(schedulers, list) else [schedulers]:
        for key in ('begin', 'end', 'T_max'):
            shorten(one, key)
        if 'milestones' in one:
            one['milestones'] = [
                max(round(step * new / old), 1) for step in one['milestones']
            ]


def training_length(cfg: Config) -> tuple[str, int] | None:
    """Name and value of the setting that ends a training, if there is one."""
    for name in ('max_iters', 'max_epochs'):
        value = (cfg.get('train_cfg') or {}).get(name)
        if isinstance(value, int):
            return name, value
    return None


def _num_classes(head: Mapping | Sequence) -> int:
    """The number of classes of the config of a head, or of a cascade."""
    if isinstance(head, Mapping):
        head = head.get('seg_head', head)
    if isinstance(head, Sequence):
        head = head[-1]
    return head.get('kernel_generate_head', head)['num_classes']
