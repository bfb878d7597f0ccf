"""How the demo model counts: one simple rule for prompts and answers.

A token is up to eight characters of a word, with the white space before it; white space at the end
of a text is one more. So ``"Hello, world"`` is two tokens and ``"deterministic"`` is two. A stream
sends one token per event, which makes ``max_tokens`` and ``usage`` exact. It must not know what
the text is for.
"""

from __future__ import annotations

import re
from itertools import islice

_PIECE = re.compile(r"\s*\S{1,8}|\s+")


def pieces(text: str) -> list[str]:
    """Split a text into its tokens; joined they are the text again."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """Count a text's tokens."""
    return len(_PIECE.findall(text))


def first(text: str, tokens: int) -> str:
    """Give the beginning of a text, at most so many tokens long."""
    return "".join(match[0] for match in islice(_PIECE.finditer(text), max(tokens, 0)))
