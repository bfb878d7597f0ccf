"""A short name for what a configuration says, by which two of them can be told apart.

It knows nothing of files: what a certificate's file holds plays no part, only where it is.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

import attrs

from llmproxy.config.model import Config

_SALT: Final = b"llmproxy: digest of a configuration"
_COST: Final = 2**14


def digest(config: Config) -> str:
    """Give twelve hexadecimal digits that are others when any value is another.

    Defaults count as if they stood in the file, secrets count, and the same configuration gives the
    same digest in every process of a version. It may be shown to anybody: it is too short to tell
    what was digested, and each guess at a weak secret costs as much as a guess at a stored password
    (scrypt, RFC 7914). It takes some hundredths of a second.
    """
    text = json.dumps(attrs.asdict(config), sort_keys=True, default=str)
    return hashlib.scrypt(
        text.encode("ascii"), salt=_SALT, n=_COST, r=8, p=1, maxmem=64 * 2**20, dklen=6
    ).hex()
