"""The text of keys: how new ones are made, and what of a key people are shown.

It knows nothing of where keys are kept.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Final

NEW_KEY_BEGINS: Final = "sk-llmp-"
"""What every key made here begins with, so that people and scanners of leaks know it."""

RANDOM_CHARACTERS: Final = 40
"""How many random ones follow: 238 bits."""

_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_UNBIASED: Final = 256 - 256 % len(_BASE62)

SHOWN_OF_NEW: Final = len(NEW_KEY_BEGINS) + 4
"""How much is shown of a key made here; 36 random characters, 214 bits, are not."""

SHOWN_OF_FOREIGN: Final = 8
"""How much is shown at most of a key made elsewhere, and never over a third of it."""


def new_key(random_bytes: Callable[[int], bytes]) -> str:
    """Make a key.

    Args:
        random_bytes: Gives so many bytes that nobody can guess.
    """
    characters: list[str] = []
    while len(characters) < RANDOM_CHARACTERS:
        # Bytes at the top are thrown away: with them the first characters would come more often.
        characters.extend(
            _BASE62[byte % len(_BASE62)]
            for byte in random_bytes(RANDOM_CHARACTERS)
            if byte < _UNBIASED
        )
    return NEW_KEY_BEGINS + "".join(characters[:RANDOM_CHARACTERS])


def shown_prefix(key: str) -> str:
    """Give the first characters of a key, for people to tell it by."""
    rest = key.removeprefix(NEW_KEY_BEGINS)
    if (
        key.startswith(NEW_KEY_BEGINS)
        and len(rest) == RANDOM_CHARACTERS
        and not set(rest) - set(_BASE62)
    ):
        return key[:SHOWN_OF_NEW]
    return key[: min(SHOWN_OF_FOREIGN, len(key) // 3)]
