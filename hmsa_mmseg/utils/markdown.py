"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1
) -> str:
    """Format cells as a table, without a line break at its end.

    The first ``left`` columns are aligned to the left; the others, of
    numbers, to the right.

    Raises:
        ValueError: If a row has more or fewer cells than the header.
    """
    marks = [':--' if i < left else '--:' for i in range(len(header))]
    lines = []
    for cells in (header, marks, *rows):
        if len(cells) != len(header):
            raise ValueError(
                f'expected {len(header)} cells, as in {[*header]}, got '
                f'{[*cells]}'
            )
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)
