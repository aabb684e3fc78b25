"""Tables as Markdown."""

import pytest

from hmsa_mmseg.utils import markdown_table


def test_columns_of_names_and_of_numbers():
    lines = markdown_table(['a', 'b', 'c'], [('x', 'y', 1)], left=2)
    assert lines.splitlines() == [
        '| a | b | c |',
        '| :-- | :-- | --: |',
        '| x | y | 1 |',
    ]


def test_a_row_with_a_missing_cell():
    with pytest.raises(ValueError, match='expected 2 cells'):
        markdown_table(['a', 'b'], [['x']])
