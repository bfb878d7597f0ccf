"""Any text as SQLite can hold it."""

from __future__ import annotations


def storable(text: str) -> str:
    r"""Give a text that has an UTF-8 form: a lone surrogate becomes its escape, ``\udc80``.

    Such text comes from JSON escapes only, and is nobody's name: that two different ones may become
    the same is no loss. All other text, with NUL and quotes, stays as it is.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
