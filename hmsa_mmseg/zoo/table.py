"""The table of all families of the zoo: which convert, and what changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .configs import families, list_configs
from .conversion import convert
from .refusals import NotConvertible
from .writing import read_zoo_config

_HEAD = """# Families of the model zoo

Which configs of mmseg's model zoo `tools/from_zoo.py` turns into multi-scale
ones. Every config of the installed zoo was put through it; a test trains a
step and predicts with a small model of each family and kind of head, where the
packages that it needs are installed (PSANet's with a stand-in for its compiled
operator). Written by `python tools/from_zoo.py --table`; a test compares it
with the code.

| family | configs | converted | notes |
| --- | --: | --- | --- |
"""
# What is special, by the type of a backbone or seg head.
_NOTES = {
    'AnySizeBEiT': '`BEiT` becomes `AnySizeBEiT`',
    'AnySizeLRASPPHead': '`LRASPPHead` becomes `AnySizeLRASPPHead`',
    'AnySizeMAE': '`MAE` becomes `AnySizeMAE`',
    'DDRHead': 'not with `--attention-only`',
    'IterativeDecodeHead': 'attention reads the features that the kernels '
    'classify',
    'PIDHead': 'not with `--attention-only`',
    'PSAHead': 'needs the compiled operators of full mmcv, as in mmseg',
    'SegmenterMaskTransformerHead': 'attention reads the patches that are '
    'compared with classes',
    'UNet': 'sides of the image at every scale must be multiples of 16',
}
_PACKAGES = ('mmpretrain', 'mmdet')


class Outcome(NamedTuple):
    """What became of one config.

    Attributes:
        reason (str | None): Why it cannot be converted; None if it can.
        notes (frozenset[str]): What is special about it.
    """

    reason: str | None
    notes: frozenset[str] = frozenset()


def outcome_of(path: Path) -> Outcome:
    """Convert one config of the zoo.

    Args:
        path (Path): Of the config.

    Returns:
        Outcome: Whether it can be, and what is special about it.
    """
    try:
        model = convert(read_zoo_config(path)).cfg.model
    except NotConvertible as error:
        return Outcome(error.reason)
    seg_head = model.decode_head.seg_head
    heads = seg_head if isinstance(seg_head, list) else [seg_head]
    types = [model.backbone.type, *(head.type for head in heads)]
    notes = {_NOTES[name] for name in types if name in _NOTES}
    if len(heads) > 1:
        notes.add('the cascade becomes a list of seg heads')
    for package in _PACKAGES:
        if types[0].startswith(f'{package}.'):
            notes.add(f'needs `{package}`, as in mmseg')
    return Outcome(None, frozenset(notes))


def table_row(family: str, outcomes: Sequence[Outcome]) -> str:
    """Write the row of a family.

    Args:
        family (str): Its folder.
        outcomes (Sequence[Outcome]): Of its configs.

    Returns:
        str: A line of Markdown.
    """
    good = [one for one in outcomes if one.reason is None]
    reasons = {one.reason for one in outcomes if one.reason is not None}
    share = f'{len(good)} of {len(outcomes)}'
    if len(good) in (0, len(outcomes)):
        share = 'yes' if good else 'no'
    notes = set().union(*(one.notes for one in good)) if good else set()
    text = '; '.join([*sorted(notes), *sorted(reasons)])
    return f'| {family} | {len(outcomes)} | {share} | {text} |\n'


def zoo_table(progress: Callable[[str], None]) -> str:
    """Put every config of the installed zoo through the conversion.

    Args:
        progress (Callable): Is told each row.

    Returns:
        str: The page.
    """
    rows, counts = [], [0, 0]
    for family in families():
        outcomes = [outcome_of(path) for path in list_configs(family)]
        rows.append(table_row(family, outcomes))
        counts[0] += sum(one.reason is None for one in outcomes)
        counts[1] += len(outcomes)
        progress(rows[-1].rstrip())
    total = f'\n{counts[0]} of {counts[1]} configs are converted.\n'
    return _HEAD + ''.join(rows) + total
