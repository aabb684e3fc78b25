"""Configs as checkpoints hold them: text, which is read but never run."""

from __future__ import annotations

import ast


def parse_config_text(text: str) -> tuple[dict, dict[str, str]]:
    """Read the settings of a config's text without executing it.

    mmengine writes ``Config.pretty_text`` into checkpoints: one assignment
    for each setting. A checkpoint may be foreign, so nothing of it is run:
    literals, ``dict(...)``, lists, tuples, sets, signs and names that were
    assigned before are understood, all else is not.

    Args:
        text (str): Python.

    Returns:
        tuple[dict, dict[str, str]]: Settings by their names; and for each
        setting that was not understood the reason.

    Raises:
        ValueError: If the text is no Python at all.
    """
    try:
        body = ast.parse(text).body
        known: dict = {}
        failed: dict[str, str] = {}
        for node in body:
            _read(node, known, failed)
    # What is nested too deeply, or holds a null byte.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'not the text of a config: {type(error).__name__}: {error}'
        ) from error
    return known, failed


def _read(node: ast.stmt, known: dict, failed: dict[str, str]) -> None:
    """Take in a statement."""
    if not isinstance(node, ast.Assign):
        return
    try:
        value = _value(node.value, known)
        reason = None
    # A TypeError: a list as the key of a dict, for example.
    except (_NotPlainError, TypeError) as error:
        value, reason = None, str(error)
    for target in node.targets:
        if not isinstance(target, ast.Name):
            continue
        known.pop(target.id, None)
        failed.pop(target.id, None)
        if reason is None:
            known[target.id] = value
        else:
            failed[target.id] = reason


class _NotPlainError(Exception):
    """An expression that is not understood."""


def _value(node: ast.expr, known: dict) -> object:
    """Give the value of an expression.

    Raises:
        _NotPlainError: If it would have to be computed.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(item, known) for item in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            _value(key, known): _value(value, known)
            for key, value in zip(node.keys, node.values)
        }
    if isinstance(node, ast.UnaryOp):
        number = _value(node.operand, known)
        if isinstance(node.op, ast.USub) and type(number) in (int, float):
            return -number
    if _is_dict_call(node):
        (mapping,) = [_value(item, known) for item in node.args] or [{}]
        if isinstance(mapping, dict):
            keywords = {
                word.arg: _value(word.value, known) for word in node.keywords
            }
            return {**mapping, **keywords}
    raise _NotPlainError(
        f'line {node.lineno}: {type(node).__name__} is not a plain value'
    )


def _is_dict_call(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == 'dict'
        and len(node.args) <= 1
        and all(word.arg is not None for word in node.keywords)
    )
