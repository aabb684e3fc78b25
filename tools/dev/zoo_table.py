"""Write docs/zoo_families.md: which families of mmseg's zoo convert.

    python tools/dev/zoo_table.py docs/zoo_families.md

takes some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmengine.registry import init_default_scope

import hmsa_mmseg  # noqa: F401  (registers the classes)
from hmsa_mmseg.zoo import NotConvertible, convert, families, list_configs
from hmsa_mmseg.zoo.writing import read_zoo_config

_HEAD = """# Families of the model zoo

Which configs of mmseg's model zoo `hmsa from-zoo` turns into multi-scale
ones. Every config of the installed zoo was put through it; a test trains a
step and predicts with a small model of each family and kind of head, where the
packages that it needs are installed (PSANet's with a stand-in for its compiled
operator). Written by `python tools/dev/zoo_table.py`; a test compares it
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


# Why a config cannot be converted, or None; and what is special about it.
Outcome = tuple[Optional[str], set[str]]


def outcome_of(path: Path) -> Outcome:
    """Convert one config of the zoo."""
    try:
        model = convert(read_zoo_config(path)).cfg.model
    except NotConvertible as error:
        return error.reason, set()
    seg_head = model.decode_head.seg_head
    heads = seg_head if isinstance(seg_head, list) else [seg_head]
    types = [model.backbone.type, *(head.type for head in heads)]
    notes = {_NOTES[name] for name in types if name in _NOTES}
    if len(heads) > 1:
        notes.add('the cascade becomes a list of seg heads')
    for package in _PACKAGES:
        if types[0].startswith(f'{package}.'):
            notes.add(f'needs `{package}`, as in mmseg')
    return None, notes


def table_row(family: str, outcomes: Sequence[Outcome]) -> str:
    """Write a line of Markdown about the configs of a family."""
    reasons = [reason for reason, _ in outcomes if reason is not None]
    count = len(outcomes) - len(reasons)
    share = f'{count} of {len(outcomes)}'
    if not (count and reasons):
        share = 'yes' if count else 'no'
    notes = set().union(*(notes for _, notes in outcomes))
    text = '; '.join([*sorted(notes), *sorted({*reasons})])
    return f'| {family} | {len(outcomes)} | {share} | {text} |\n'


def zoo_table() -> str:
    """Put every config of the installed zoo through the conversion."""
    found = {
        family: [outcome_of(path) for path in list_configs(family)]
        for family in families()
    }
    every = [one for outcomes in found.values() for one in outcomes]
    count = sum(reason is None for reason, _ in every)
    rows = ''.join(table_row(*item) for item in found.items())
    return f'{_HEAD}{rows}\n{count} of {len(every)} configs are converted.\n'


if __name__ == '__main__':
    init_default_scope('mmseg')
    Path(sys.argv[1]).write_text(zoo_table())
