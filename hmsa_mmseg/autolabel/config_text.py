"""Configs as checkpoints hold them: text, which is read but never run."""

from __future__ import annotations

import ast

#: How many values may come from names, so that a few lines which double a
#: list again and again do not fill the memory, nor nest without end.
_MAX_NAMED = 10**5


def parse_config_text(text: str) -> tuple[dict, dict[str, str]]:
    """Read the settings of a config's text without executing it.

    mmengine writes ``Config.pretty_text`` into checkpoints: one assignment
    for each setting. A checkpoint may be foreign, so nothing of it is run:
    literals, ``dict(...)``, lists, tuples, sets, negative numbers and names
    that were assigned before are understood, all else is not.

    Args:
        text (str): Python.

    Returns:
        tuple[dict, dict[str, str]]: Settings by their names; and for each
        setting that was not understood the reason.

    Raises:
        ValueError: If the text is no Python at all.
    """
    reader = _Reader()
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign):
                reader.assign(node)
    # What is nested too deeply, or holds a null byte.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'not the text of a config: {type(error).__name__}: {error}'
        ) from error
    return reader.known, reader.failed


class _NotPlainError(Exception):
    """An expression that is not understood."""


class _Reader:
    """Takes in one assignment after the other."""

    def __init__(self) -> None:
        self.known: dict[str, object] = {}
        self.failed: dict[str, str] = {}
        # How many values each name stands for, and this assignment has.
        self._sizes: dict[str, int] = {}
        self._size = 0
        self._named = 0

    def assign(self, node: ast.Assign) -> None:
        self._size = 0
        try:
            value = self._value(node.value)
            reason = None
        # A TypeError: a list as the key of a dict, for example.
        except (_NotPlainError, TypeError) as error:
            value, reason = None, str(error)
        for target in node.targets:
            if not isinstance(target, ast.Name):
                continue
            self.known.pop(target.id, None)
            self.failed.pop(target.id, None)
            if reason is None:
                self.known[target.id] = value
                self._sizes[target.id] = self._size
            else:
                self.failed[target.id] = reason

    def _value(self, node: ast.expr) -> object:
        """Give the value of an expression.

        Raises:
            _NotPlainError: If it would have to be computed.
        """
        self._size += 1
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in self.known:
            return self._named_value(node)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}
            return kind[type(node)](map(self._value, node.elts))
        if isinstance(node, ast.Dict) and None not in node.keys:
            return {
                self._value(key): self._value(value)
                for key, value in zip(node.keys, node.values)
            }
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = self._value(node.operand)
            if type(number) in (int, float):
                return -number
        if _is_dict_call(node):
            (mapping,) = [*map(self._value, node.args)] or [{}]
            if isinstance(mapping, dict):
                keywords = {
                    word.arg: self._value(word.value) for word in node.keywords
                }
                return {**mapping, **keywords}
        raise _NotPlainError(
            f'line {node.lineno}: {type(node).__name__} is not a plain value'
        )

    def _named_value(self, node: ast.Name) -> object:
        self._size += self._sizes[node.id]
        self._named += self._sizes[node.id]
        if self._named > _MAX_NAMED:
            raise _NotPlainError(
                f'line {node.lineno}: names stand for more than {_MAX_NAMED} '
                'values'
            )
        return self.known[node.id]


def _is_dict_call(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == 'dict'
        and len(node.args) <= 1
        and all(word.arg is not None for word in node.keywords)
    )
