"""What a folder of auto-labels was made with: ``autolabel_meta.json``.

Teacher, settings, round and the round before are the identity of labels: those
of another one do not belong in the same folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hmsa_mmseg.datasets.autolabel_files import META_FILE, read_meta
from hmsa_mmseg.prediction.journal import digest
from hmsa_mmseg.utils.files import atomic_file, write_json

#: What makes the identity. Names of files do not: files are renamed.
_IDENTITY = (
    ('teacher', ('checkpoint_sha256', 'config_sha256')),
    ('settings', None),
    ('round', None),
    # Not of its file: a run that goes on may count other images there.
    ('previous', ('identity',)),
)
#: Settings that say what the files mean, which is one thing for a folder.
MEANING = {
    f'settings.{key}'
    for key in ('label_format', 'label_ids', 'prob', 'layout', 'classes')
}


def write_meta(folder: str | Path, meta: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all."""
    write_json(Path(folder) / META_FILE, meta, indent=1)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of a JSON object a line, whole or not at all."""
    with atomic_file(path) as file:
        for line in lines:
            file.write(json.dumps(line).encode() + b'\n')


def link_to(folder: str | Path, start: str | Path) -> dict[str, str]:
    """Describe the folder of the round before, for ``previous``.

    Args:
        folder (str | Path): With metadata; see :func:`read_meta`.
        start (str | Path): Folder that refers to it.
    """
    content = (Path(folder) / META_FILE).read_bytes()
    return dict(
        folder=Path(os.path.relpath(folder, start)).as_posix(),
        meta_sha256=hashlib.sha256(content).hexdigest(),
        identity=identity_of(read_meta(folder)),
    )


def identity_of(meta: Mapping[str, Any]) -> str:
    """A short name for the identity, which each label carries."""
    return digest(_identity(meta))[:16]


def identities_in(meta: Mapping[str, Any]) -> set[str]:
    """Identities of all labels that belong in a folder."""
    return {identity_of(meta), *map(identity_of, meta.get('mixed') or ())}


def differences(
    found: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Compare the identities in two metadata.

    Returns:
        dict[str, tuple]: Both values of what differs, by dotted keys.
    """
    first, second = (_flat(_identity(meta)) for meta in (found, expected))
    return {
        key: (first.get(key), second.get(key))
        for key in {**second, **first}
        if first.get(key) != second.get(key)
    }


def mixed_with(
    meta: Mapping[str, Any], found: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The identities, each once, that a folder holds beside that of ``meta``.

    ``found`` are the metadata of what is there.
    """
    others = {}
    for other in (*(found.get('mixed') or ()), found):
        kept = {key: other.get(key) for key, _ in _IDENTITY}
        others[identity_of(kept)] = kept
    others.pop(identity_of(meta), None)
    return list(others.values())


def _identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    identity = {}
    for key, parts in _IDENTITY:
        value = meta.get(key)
        if parts is not None and value is not None:
            value = {part: value.get(part) for part in parts}
        if key == 'settings':
            # Colours are for pictures alone.
            value = {k: v for k, v in value.items() if k != 'palette'}
        identity[key] = value
    # As it is read back: tuples are lists.
    return json.loads(json.dumps(identity))


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for key, value in identity.items():
        if isinstance(value, dict):
            flat.update({f'{key}.{part}': value[part] for part in value})
        else:
            flat[key] = value
    return flat
