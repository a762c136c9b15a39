"""Plain aligned text for a terminal: columns, the last of them wrapped."""

import textwrap
from collections.abc import Sequence

WIDTH = 110
"""Columns of the terminal that everything fits into."""


def aligned(rows: Sequence[Sequence[str]], widest: int = 26) -> str:
    """Rows with their columns under each other; a cell before the last is cut at `widest`, the last is wrapped."""
    cut = [[*(_cut(cell, widest) for cell in row[:-1]), row[-1]] for row in rows]
    columns = len(cut[0]) - 1
    widths = [max(len(row[column]) for row in cut) for column in range(columns)]
    lines: list[str] = []
    for row in cut:
        head = "".join(f"{cell:<{size}}  " for cell, size in zip(row, widths))
        lines.append(wrapped(head + row[-1], len(head)))
    return "\n".join(lines)


def wrapped(line: str, indent: int = 4) -> str:
    """A line broken at spaces, its further lines indented; the spaces of the first are left as they are."""
    head, rest = line[:indent], line[indent:]
    pieces = textwrap.wrap(rest, WIDTH - indent, break_on_hyphens=False, break_long_words=False) or [""]
    return "\n".join([(head + pieces[0]).rstrip(), *(" " * indent + piece for piece in pieces[1:])])


def _cut(text: str, widest: int) -> str:
    return text if len(text) <= widest else text[: widest - 3] + "..."
