"""Whether a checkpoint holds all that a converted model does not learn."""

from __future__ import annotations

import copy
import os
from typing import NamedTuple

from mmengine.config import Config
from mmengine.fileio import get_local_path
from mmengine.utils import import_modules_from_strings
from mmseg.registry import MODELS
from torch import Tensor, nn

from hmsa_mmseg.utils import safe_load

# Of keys named in an error.
_MOST = 5


class CheckpointReport(NamedTuple):
    """What a checkpoint gives to a model.

    Attributes:
        used (list[str]): Its keys that the model takes, which are all but
            those of ``other_classes``.
        new (list[str]): Weights of the model that it has not: those of the
            attention branch.
        other_classes (list[str]): Weights of the model that are of another
            number of classes there.
        num_values (int): Numbers in the weights used.
    """

    used: list[str]
    new: list[str]
    other_classes: list[str]
    num_values: int

    def describe(self, checkpoint: str | os.PathLike) -> str:
        """Say what the checkpoint gives.

        Args:
            checkpoint (str | os.PathLike): How it is called.

        Returns:
            str: A line for each of what is used, new, and of other classes.
        """
        share = 'all but the classifiers' if self.other_classes else 'all'
        lines = [
            f'{checkpoint}: {share} is used, {len(self.used)} tensors with '
            f'{self.num_values / 1e6:.1f} million numbers'
        ]
        if self.new:
            lines.append(f'new, and to be trained: {", ".join(self.new)}')
        if self.other_classes:
            lines.append(
                'of another number of classes, and to be trained again: '
                f'{", ".join(self.other_classes)}'
            )
        return '\n'.join(lines)


def check_checkpoint(
    cfg: Config, checkpoint: str | os.PathLike, reinit_classifier: bool = False
) -> CheckpointReport:
    """Load a checkpoint into the model of a converted config.

    Args:
        cfg (Config): The converted config.
        checkpoint (str | os.PathLike): A file or an address, of mmseg's own
            model.
        reinit_classifier (bool): Whether mmseg's own model, whose head has
            no such option, may be of another number of classes there;
            mmengine leaves such weights out. Defaults to False.

    Returns:
        CheckpointReport: What was used.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged, could run code, or its weights are not
            those of the model, naming the keys.
    """
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    model = MODELS.build(copy.deepcopy(cfg.model))
    state = _read(checkpoint)
    other_classes = (
        _take_other_classes(model, state)
        if reinit_classifier or _reinits(model)
        else []
    )
    found = {key: state[key].numel() for key in state}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    # Weights of other sizes, or of another number of classes.
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f'{checkpoint} does not fit the model: '
            f'{" ".join(str(error).split())[:1000]}'
        ) from error
    learned = _attention_keys(model)
    reinit = _classifier_keys(model) if _reinits(model) else set()
    lacking = [
        key
        for key in missing
        if key not in learned
        and key not in other_classes
        and key not in reinit
        # Older versions of torch did not save it.
        and not key.endswith('num_batches_tracked')
    ]
    problems = []
    if lacking:
        problems.append(f'lacks {_some(lacking)}')
    if unexpected:
        problems.append(f'holds {_some(unexpected)}, which the model has not')
    if problems:
        raise ValueError(
            f'{checkpoint} is not of this architecture: it '
            f'{" and ".join(problems)}; expected a checkpoint of the zoo '
            'config that is converted'
        )
    others = {*other_classes, *(reinit & set(missing))}
    own = set(model.state_dict())
    used = sorted(key for key in found if _own_key(own, key) not in others)
    return CheckpointReport(
        used=used,
        new=sorted(learned & set(missing)),
        other_classes=sorted(others),
        num_values=sum(found[key] for key in used),
    )


def _read(checkpoint: str | os.PathLike) -> dict[str, Tensor]:
    with get_local_path(os.fspath(checkpoint)) as path:
        loaded = safe_load(path)
    loaded = loaded if isinstance(loaded, dict) else {}
    state = loaded.get('state_dict', loaded)
    is_state = isinstance(state, dict) and state
    if not is_state or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(
            f'{checkpoint} holds no weights; expected a dict of tensors by '
            'their names, or one with such a dict as its state_dict'
        )
    return {
        str(key).removeprefix('module.'): value for key, value in state.items()
    }


def _reinits(model: nn.Module) -> bool:
    return getattr(model.decode_head, 'reinit_classifier', False)


def _take_other_classes(
    model: nn.Module, state: dict[str, Tensor]
) -> list[str]:
    """Take classifiers of other classes out, as mmengine does.

    But for those that our head takes out itself.
    """
    head_does = _reinits(model)
    taken = []
    for key, own in model.state_dict().items():
        other = state.get(key)
        if (
            other is not None
            and not (head_does and key.startswith('decode_head.'))
            and own.dim() > 0
            and other.shape != own.shape
            and other.shape[1:] == own.shape[1:]
        ):
            del state[key]
            taken.append(key)
    return taken


def _attention_keys(model: nn.Module) -> set[str]:
    """Keys of what the multi-scale head learns beside its seg heads."""
    modules = getattr(model.decode_head, 'attention_modules', ())
    parts = {id(part) for part in modules}
    return {
        f'decode_head.{name}.{key}'
        for name, child in model.decode_head.named_children()
        if id(child) in parts
        for key in child.state_dict()
    }


def _classifier_keys(model: nn.Module) -> set[str]:
    """Keys of the seg heads that have the classes in their shape."""
    head = model.decode_head
    return {
        f'decode_head.{key}'
        for key, value in head.state_dict().items()
        if key.startswith('seg_head.') and head.out_channels in value.shape
    }


def _own_key(own: set[str], key: str) -> str:
    """Name in a model of a key that may be mmseg's."""
    prefix = 'decode_head.'
    if key.startswith(prefix) and not key.startswith(f'{prefix}seg_head.'):
        inside = f'{prefix}seg_head.{key[len(prefix) :]}'
        return inside if inside in own else key
    return key


def _some(keys: list[str]) -> str:
    """Some keys, and how many there are."""
    shown = ', '.join(keys[:_MOST])
    rest = len(keys) - _MOST
    return f'{shown} and {rest} more' if rest > 0 else shown
