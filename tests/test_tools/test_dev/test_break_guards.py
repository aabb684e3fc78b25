"""The check of guards, on a package that has two."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[3] / 'tools/dev/break_guards.py'
MODULE = """
def half(value):
    if value % 2:
        raise ValueError('odd')
    if value < 0:
        raise ValueError('negative')
    return value // 2
"""
TEST = """
import pytest
from hmsa_mmseg.utils.half import half

@pytest.mark.parametrize('value', [3])
def test_half(value):
    with pytest.raises(ValueError):
        half(value)
"""


def test_a_guard_without_a_test_is_found(tmp_path):
    repository = tmp_path / 'repository'
    test = repository / 'tests/test_utils/test_half.py'
    module = repository / 'hmsa_mmseg/utils/half.py'
    for path, text in ((module, MODULE), (test, TEST)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (repository / 'hmsa_mmseg/__init__.py').touch()

    def run():
        return subprocess.run(
            [sys.executable, TOOL, '--out', tmp_path / 'out'],
            cwd=repository,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    said = run()
    assert '1 of 2 broken guards are noticed' in said
    assert 'half.py half if: value < 0' in said
    test.write_text(TEST.replace('[3]', '[3, -2]'))
    assert '2 of 2 broken guards are noticed' in run()
    assert module.read_text() == MODULE
