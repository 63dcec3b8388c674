"""Tables that fit any terminal: figures stay whole, names are shortened, a long text gets a line of its own.

agent    alive  behind  last error         agent    alive  behind         mail-notification-ser…
billing      2      12  no price           billing      2      12           alive 2  behind 129,987
                                             ValueError: no price for …     ValueError: no price for …
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from forebay.cli.column import Column
from forebay.printable import printable

GAP = 2
"""Spaces between two columns."""
NAME_CELLS = 12
"""Cells of a terminal that a name keeps in its column, if it has so many."""
TEXT_CELLS = 32
"""Cells that a text needs in its column; with fewer it is put below its row."""


def table(columns: Sequence[Column], rows: Iterable[Any], width: int) -> Text:
    """The rows below a header. No line is longer than `width` cells, but for a single value that may not be cut."""
    cells = [[_cell(column, row) for column in columns] for row in rows]
    widths = [
        max(cell_len(text) for text in (column.name, *(row[index].plain for row in cells)))
        for index, column in enumerate(columns)
    ]
    beside = [index for index, column in enumerate(columns) if column.kind != "text"]
    below = [index for index, column in enumerate(columns) if column.kind == "text"]
    if below and (left := width - GAP - _total(widths, beside)) >= min(widths[below[0]], TEXT_CELLS):
        widths[below[0]] = min(widths[below[0]], left)
        beside, below = list(range(len(columns))), []
    names = [index for index in beside if columns[index].kind == "name"]
    widths = _shortened(widths, names, _total(widths, beside) - width, least=NAME_CELLS)
    lines: list[Text] = []
    if fits := _total(widths, beside) <= width:
        lines.append(_in_columns(columns, [Text(column.name, "bold") for column in columns], widths, beside))
    for row in cells:
        if fits:
            lines.append(_in_columns(columns, row, widths, beside))
        else:
            lines += _stacked(columns, row, names, [index for index in beside if index not in names], width)
        lines += [_fitted(Text(" " * GAP) + row[index], width) for index in below if row[index]]
    return Text("\n", no_wrap=True, overflow="ignore").join(lines)


def _cell(column: Column, row: Any) -> Text:
    value = column.value(row)
    return Text(printable(column.show(value)), "bold red" if column.alarm and value else "")


def _total(widths: Sequence[int], indices: Sequence[int]) -> int:
    return sum(widths[index] for index in indices) + GAP * max(len(indices) - 1, 0)


def _shortened(widths: Sequence[int], names: Sequence[int], excess: int, *, least: int) -> list[int]:
    """The widths, with so many cells taken from the names, always from the longest, as far as that goes."""
    found = list(widths)
    for _ in range(excess):
        longest = max(names, key=found.__getitem__, default=None)
        if longest is None or found[longest] <= least:
            break
        found[longest] -= 1
    return found


def _in_columns(columns: Sequence[Column], row: Sequence[Text], widths: Sequence[int], indices: Sequence[int]) -> Text:
    line = Text(" " * GAP).join(
        _fitted(row[index], widths[index], right=columns[index].kind == "figure") for index in indices
    )
    line.rstrip()
    return line


def _stacked(
    columns: Sequence[Column], row: Sequence[Text], names: Sequence[int], others: Sequence[int], width: int
) -> Iterator[Text]:
    """A row over several lines: its names, then its other values, each after the name of its column."""
    widths = [cell_len(cell.plain) for cell in row]
    widths = _shortened(widths, names, _total(widths, names) - width, least=1)
    if names:
        yield _in_columns(columns, row, widths, names)
    pairs = [Text.assemble((f"{columns[index].name} ", "dim"), row[index]) for index in others if row[index]]
    line = Text()
    for pair in pairs:
        if line and cell_len(line.plain) + GAP + cell_len(pair.plain) > width:
            yield line
            line = Text()
        line = Text.assemble(line, " " * GAP, pair)
    if line:
        yield line


def _fitted(cell: Text, width: int, *, right: bool = False) -> Text:
    """The cell in exactly so many cells, or in as many as the terminal needs for fewer."""
    missing = width - cell_len(cell.plain)
    if missing >= 0:
        return Text(" " * missing) + cell if right else cell + Text(" " * missing)
    return Text(set_cell_size(cell.plain, width - 1) + "…", cell.style)
