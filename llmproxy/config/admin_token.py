"""Whether a token is fit to guard the admin API: long enough, and no word that everybody tries."""

from __future__ import annotations

import re
from typing import Final

SHORTEST_SECRET: Final = 16
"""Characters of the admin token, and of the secret under which keys are hashed, at least."""

_FEWEST_DIFFERENT = 6
_FEWEST_OF_ITS_OWN = 8
"""Characters, at least, that are no part of a well-known word."""

_VISIBLE_ASCII = re.compile(r"[!-~]+", re.ASCII)

# What examples and installers put there, and what is tried first.
_WORDS = """
    abcdef abcdefgh abcdefghijklmnop abcdefghijklmnopqrstuvwxyz abc123
    admin administrator api apikey bearer change changeit changeme changethis default demo dev
    development dummy enter example fixme foobar gateway generate generated guest hello here insert
    ipsum key letmein llm llmproxy long lorem master me my openai passw0rd password passwort
    placeholder please private prod production proxy qwerty qwertyuiop random replace replaceme root
    sample secret secure set some staging strong super supersecret temp temporary test testing this
    to todo token user very welcome with xxx xxxx your
    0000 1111 123 1234 12345 123456 1234567 12345678 123456789 1234567890 0123456789 123456789012
    1234567890123456 0123456789abcdef 987654321 9876543210
"""
# The longest first: a word within a longer one must not tear it apart.
_WELL_KNOWN = re.compile("|".join(sorted(_WORDS.split(), key=len, reverse=True)))
_LETTER_OR_DIGIT = re.compile(r"[a-z0-9]")


def token_fault(token: str) -> str:
    """Say what is wrong with an admin token.

    Args:
        token: The token; not empty.

    Returns:
        What is wrong and what is wanted, without the token; empty: nothing.
    """
    if not _VISIBLE_ASCII.fullmatch(token):
        return "with characters that no header can carry; want visible ASCII without spaces"
    if len(token) < SHORTEST_SECRET:
        return f"of {len(token)} characters; want at least {SHORTEST_SECRET}"
    if len(set(token)) < _FEWEST_DIFFERENT:
        return f"of fewer than {_FEWEST_DIFFERENT} different characters; want a random one"
    lower = token.lower()
    letters = "".join(_LETTER_OR_DIGIT.findall(lower))
    own = _WELL_KNOWN.sub("", letters)
    own += "".join(set(_LETTER_OR_DIGIT.sub("", lower)))  # "admin!!!!" is no better for its marks
    if len(own) < _FEWEST_OF_ITS_OWN or len(set(own)) < _FEWEST_DIFFERENT:
        return "made of well-known words, which is guessed at once; want a random one"
    return ""
