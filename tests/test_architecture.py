"""Imports of the package point down (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'hmsa_mmseg'
# Room -> rooms that it may import. A room may import itself.
ROOMS = {
    'compat': set(),
    'known_keys': set(),
    'utils': {'compat'},
    'models': {'compat', 'known_keys'},
    'datasets': {'compat', 'known_keys', 'utils'},
    'visualization': {'compat', 'utils', 'models', 'datasets'},
    'analysis': {'compat', 'utils', 'models', 'datasets'},
    'engine': {'compat', 'utils', 'models', 'datasets'},
    'export': {'compat', 'utils', 'models', 'version'},
    'zoo': {'compat', 'utils', 'models', 'datasets', 'analysis'},
    'prediction': {
        *('compat', 'utils', 'models', 'datasets', 'visualization', 'engine'),
    },
    'autolabel': {
        *('compat', 'utils', 'models', 'datasets', 'visualization'),
        *('engine', 'prediction'),
    },
    'reports': {
        *('compat', 'utils', 'models', 'datasets', 'visualization'),
        *('analysis', 'prediction', 'autolabel'),
    },
}
MODELS = {
    'utils': set(),
    'scale_fusion': set(),
    'tiled': {'utils', 'scale_fusion'},
    'losses': {'utils', 'scale_fusion', 'tiled'},
    'decode_heads': {'utils', 'scale_fusion', 'tiled', 'losses'},
}


def imports(path, root):
    """Parts below a root that a module imports: models/x.py of package."""
    here = path.relative_to(root.parent).with_suffix('').parts
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split('.') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level] if node.level else ()
            module = [*start, *(node.module or '').split('.')]
            module = [part for part in module if part]
            names = [[*module, alias.name] for alias in node.names]
        for name in names:
            if name[: len(root.parts[-1:])] == [root.name] and len(name) > 1:
                yield name[1]


@pytest.mark.parametrize(
    ('root', 'allowed'),
    [(PACKAGE, ROOMS), (PACKAGE / 'models', MODELS)],
    ids=['package', 'models'],
)
def test_imports_point_down(root, allowed):
    found = []
    for room, below in allowed.items():
        paths = [root / f'{room}.py', *(root / room).rglob('*.py')]
        for path in paths:
            if path.is_file():
                found += [
                    f'{path.relative_to(root)} imports {target}'
                    for target in imports(path, root)
                    if target in allowed and target not in {room, *below}
                ]
    assert found == []
    assert sum((root / room).is_dir() for room in allowed) >= 4
