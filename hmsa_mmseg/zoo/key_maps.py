"""State dicts whose keys are renamed, with an account of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

# Starts of keys -> what takes their place. Of several that fit, the first.
KeyMap = tuple[tuple[str, str], ...]
State = Mapping[str, torch.Tensor]
Shapes = Mapping[str, torch.Size]


@dataclass
class KeyConversion:
    """A converted state dict, and what became of each entry.

    Attributes:
        state_dict (dict[str, Tensor]): The converted entries.
        used (dict[str, str]): Key of the source -> what it became.
        missing (list[str]): Keys that the source should have.
        left_over (list[str]): Keys of the source that have no place.
        wrong_shape (list[str]): Keys of the source, with both shapes.
    """

    state_dict: dict[str, torch.Tensor] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)

    def check(self, source: str) -> None:
        """Raise a ValueError that lists all keys that do not fit."""
        lines = []
        for name in ('missing', 'left_over', 'wrong_shape'):
            keys = getattr(self, name)
            if keys:
                lines.append(f'{name.replace("_", " ")} ({len(keys)}):')
                lines.extend(f'  {key}' for key in keys)
        if lines:
            lines.insert(0, f'{source} does not fit the model')
            raise ValueError('\n'.join(lines))


def rename(key: str, key_map: KeyMap) -> str | None:
    """Replace the start of a key; None if no rule knows it."""
    for old, new in key_map:
        if key.startswith(old):
            return new + key[len(old) :]
    return None


def invert(key_map: KeyMap) -> KeyMap:
    """Turn rules around."""
    return tuple((new, old) for old, new in key_map)


def convert_keys(
    state: State, key_map: KeyMap, shapes: Shapes
) -> KeyConversion:
    """Rename the keys of a state dict."""
    result = KeyConversion()
    for key, value in state.items():
        new_key = rename(key, key_map)
        if new_key not in shapes or new_key in result.state_dict:
            result.left_over.append(key)
            continue
        result.state_dict[new_key] = value
        result.used[key] = new_key
        found, expected = tuple(value.shape), tuple(shapes[new_key])
        if found != expected:
            result.wrong_shape.append(f'{key}: {found}, expected {expected}')
    absent = [key for key in shapes if key not in result.state_dict]
    result.missing = [rename(key, invert(key_map)) for key in absent]
    return result
