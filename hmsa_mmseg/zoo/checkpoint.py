"""Whether a checkpoint holds all that a converted model does not learn."""

from __future__ import annotations

import copy
import os
from typing import NamedTuple

from mmengine.config import Config
from mmengine.fileio import get_local_path
from mmengine.utils import import_modules_from_strings
from mmseg.registry import MODELS

from hmsa_mmseg.models.decode_heads.state_dict_checks import map_stock_keys
from hmsa_mmseg.utils.loading import read_state_dict

# Of keys named in an error.
_MOST = 5
_HEAD = 'decode_head.'


class CheckpointReport(NamedTuple):
    """What a checkpoint gives to a model.

    Keys of the weights that are used, of those that are new, and of those of
    another number of classes; how many numbers the first hold.
    """

    used: list[str]
    new: list[str]
    other_classes: list[str]
    num_values: int

    def describe(self, checkpoint: str | os.PathLike) -> str:
        """Say what the checkpoint gives."""
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

    With ``reinit_classifier`` it may be of another number of classes, as
    mmengine takes it; our head must be set so, too. A ValueError names what
    is missing, left over or of another shape.
    """
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    model = MODELS.build(copy.deepcopy(cfg.model))
    with get_local_path(os.fspath(checkpoint)) as path:
        _, state = read_state_dict(path)
    own = model.state_dict()
    inside = {key for key in own if key.startswith(f'{_HEAD}seg_head.')}
    # What our head learns beside its seg heads; of mmseg's heads nothing.
    learned = {key for key in own if inside and key.startswith(_HEAD)} - inside
    if inside:
        map_stock_keys(state, _HEAD)
    others = [
        key
        for key in own
        if reinit_classifier
        and key in state
        and state[key].shape != own[key].shape
    ]
    loaded = dict(state)
    for key in others:
        # mmengine leaves them out; our head does so itself, but for more.
        if key not in inside and state[key].shape[1:] == own[key].shape[1:]:
            del loaded[key]
    try:
        missing, unexpected = model.load_state_dict(loaded, strict=False)
    # Weights of other sizes, or of another number of classes.
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f'{checkpoint} does not fit the model: '
            f'{" ".join(str(error).split())[:1000]}'
        ) from error
    lacking = [
        key
        for key in missing
        if key not in learned
        and key not in others
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
    used = sorted(state.keys() - others)
    return CheckpointReport(
        used=used,
        new=sorted(learned & set(missing)),
        other_classes=sorted(others),
        num_values=sum(state[key].numel() for key in used),
    )


def _some(keys: list[str]) -> str:
    """Some keys, and how many there are."""
    shown = ', '.join(keys[:_MOST])
    rest = len(keys) - _MOST
    return f'{shown} and {rest} more' if rest > 0 else shown
