"""JSON files that are whole or absent, and know their version."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from hmsa_mmseg import utils

VERSION = 1


def write_json(path: str | os.PathLike, content: Mapping) -> None:
    """Write a file with ``version`` and what is given.

    Args:
        path (str | os.PathLike): What stands there is replaced when all is
            written.
        content (Mapping): Of plain types.

    Raises:
        OSError: If it cannot be written.
        ValueError: If a number is not finite.
    """
    utils.write_json(path, {'version': VERSION, **content}, indent=None)


def read_json(path: str | os.PathLike) -> dict:
    """Read a file of :func:`write_json`, without its version.

    Args:
        path (str | os.PathLike): The file.

    Returns:
        dict: Its content.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged or of another version; the message names
            it.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f'{path} is damaged: {error}') from error
    version = content.pop('version', None) if type(content) is dict else None
    if version != VERSION:
        raise ValueError(
            f'{path} was not written by this program: expected version '
            f'{VERSION}, got {version!r}'
        )
    return content
