"""Tables for people: columns of text, aligned by what a terminal shows of it.

Pure: it takes texts and a width and gives lines. It knows nothing of keys, of terminals or of
where its texts come from; what a terminal would obey rather than show is replaced here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

import attrs

GAP: Final = "  "
CUT: Final = "…"
"""What a text that was cut ends in."""


@attrs.frozen(kw_only=True)
class Column:
    """One column.

    Attributes:
        title: Its heading.
        right: Whether its texts end at its right edge, as numbers do.
        least_cells: Its texts may be cut down to so many cells; 0: they are shown whole.
        spare: Left out when there is no room: the highest first; 0: never.
    """

    title: str
    right: bool = False
    least_cells: int = 0
    spare: int = 0


def printable(text: str) -> str:
    """Give a text with all that a terminal would obey, or cannot show, as a question mark."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "?" for each in text)


def cells(text: str) -> int:
    """Say how many cells of a terminal a printable text takes (Unicode's annex 11)."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0  # drawn over the character before it
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, most_cells: int) -> str:
    """Give a printable text, cut to fit; a cut one ends in an ellipsis."""
    if cells(text) <= most_cells:
        return text
    kept, room = "", most_cells - 1
    for each in text:
        room -= _cells_of(each)
        if room < 0:
            break
        kept += each
    return kept + CUT


def render(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    width_cells: int = 0,
    total: Sequence[str] | None = None,
) -> list[str]:
    """Make the lines of a table.

    Args:
        columns: Its columns.
        rows: Each with one text per column; an empty one is shown as a dash.
        width_cells: How wide it may be; 0: as wide as it likes. What cannot be cut or left out
            makes it wider.
        total: A last row, below a line of its own.

    Returns:
        The heading and the rows, without spaces at their ends.
    """
    headed = [[column.title for column in columns]]
    body = [[printable(text) or "-" for text in row] for row in rows]
    last = [] if total is None else [[printable(text) for text in total]]
    every = headed + body + last
    natural = [max(cells(row[index]) for row in every) for index in range(len(columns))]
    widths = _fit(columns, natural, width_cells)
    lines = [_line(columns, row, widths) for row in every]
    if last:
        lines.insert(-1, GAP.join("-" * width for width in widths.values()))
    return lines


def _fit(columns: Sequence[Column], natural: Sequence[int], width_cells: int) -> dict[int, int]:
    """Choose which columns are shown, and how wide: by their index."""
    widths = dict(enumerate(natural))

    def excess() -> int:
        wanted = sum(widths.values()) + len(GAP) * (len(widths) - 1)
        return wanted - width_cells if width_cells else 0

    spare = sorted(
        (index for index in widths if columns[index].spare),
        key=lambda index: columns[index].spare,
    )
    least = {
        index: min(width, max(columns[index].least_cells, cells(columns[index].title)))
        for index, width in widths.items()
        if columns[index].least_cells
    }
    while (over := excess()) > 0:
        given = sum(widths[index] - narrow for index, narrow in least.items() if index in widths)
        if given < over and spare:
            del widths[spare.pop()]
            continue
        # The widest gives first, so that long texts are cut before short ones.
        can = [index for index, narrow in least.items() if widths.get(index, 0) > narrow]
        if not can:
            break
        widths[max(can, key=lambda index: widths[index])] -= 1
    return widths


def _line(columns: Sequence[Column], row: Sequence[str], widths: dict[int, int]) -> str:
    shown = []
    for index, width in widths.items():
        text = cut(row[index], width)
        blank = " " * (width - cells(text))
        shown.append(blank + text if columns[index].right else text + blank)
    return GAP.join(shown).rstrip()
