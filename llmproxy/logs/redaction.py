"""Takes secrets out of the text of a log, whoever wrote it there: we, or a library.

What the configuration holds is looked for as it is, and as URLs, JSON and Python's ``repr`` write
it; what else looks like a key is found by its shape. It is for the daemon's own log, not for one
line in every request: each secret is searched for in each text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote, quote_plus

HIDDEN: Final = "(hidden)"

SHORTEST: Final = 6
"""Characters of a secret that is looked for; a shorter one would be found in every second word."""

_SHAPES = re.compile(
    r"""
      (?<![\w-]) sk-[\w-]{16,}                      # keys, ours and others'
    | (?<=\bwhsec_) [A-Za-z0-9+/=]{16,}             # secrets of webhooks
    | (?<=\bbearer\ ) [\w.~+/=-]{8,}
    | (?<=://) [^\s/@:]* : [^\s/@]+ (?=@)           # a user and a password in a URL
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


class Redactor:
    """Gives texts without secrets.

    Args:
        secrets: Those that are known.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._forms: Sequence[str] = ()
        self.learn(secrets)

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._forms)} forms>"

    def learn(self, secrets: Iterable[str]) -> None:
        """Look for these as well from now on."""
        forms = {
            form for secret in secrets if len(secret) >= SHORTEST for form in _written_forms(secret)
        }
        # A secret that is a part of another must not break the other into pieces. Other threads
        # read the list: it is replaced, never changed.
        self._forms = sorted(forms.union(self._forms), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Put `HIDDEN` where a secret stands."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        return _SHAPES.sub(HIDDEN, text)


def _written_forms(secret: str) -> Iterable[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    yield repr(secret.encode("utf-8", "surrogatepass"))[2:-1]
