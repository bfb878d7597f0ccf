"""Names as labels: only so many of them, and such as can be written."""

from __future__ import annotations

from typing import Final

OTHER: Final = "(other)"
"""Stands for all names that are too many or too long."""

LONGEST_NAME: Final = 128
"""Characters."""


class Bounded:
    """Lets the first names be labels, and no others: what comes from outside has no end.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._labels: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Bounded {len(self._labels)} of {self._most}>"

    def label(self, name: str) -> str:
        """Give the label of a name: itself, or `OTHER`."""
        label = self._labels.get(name)
        if label is None:
            if len(self._labels) >= self._most or len(name) > LONGEST_NAME:
                return OTHER
            # JSON may spell half of a surrogate pair, which no answer can hold.
            label = self._labels[name] = name.encode("utf-8", "replace").decode("utf-8")
        return label
