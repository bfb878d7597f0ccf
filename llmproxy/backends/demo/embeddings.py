"""The demo model's embeddings: unit vectors made of a hash.

Equal inputs have equal vectors, different ones point anywhere: the numbers mean nothing. It must
not know how they are sent.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Sequence

from llmproxy.backends.demo import tokens

DIMENSIONS = 64
"""The length of a vector when the client asks for none."""


def vector(given: str | Sequence[int], dimensions: int) -> list[float]:
    """Make the unit vector of a text or of a list of token ids.

    Returns:
        Numbers that single precision holds exactly, so that both encodings say the same.
    """
    seed = given.encode() if isinstance(given, str) else repr(list(given)).encode()
    numbers = struct.unpack(f"<{dimensions}H", hashlib.shake_256(seed).digest(2 * dimensions))
    centred = [number - 32767.5 for number in numbers]  # the half keeps zero out
    length = math.hypot(*centred)
    single = struct.Struct(f"<{dimensions}f")
    return list(single.unpack(single.pack(*(number / length for number in centred))))


def as_base64(numbers: Sequence[float]) -> str:
    """Encode a vector as little-endian single precision in base64, as the API does."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode("ascii")


def count(given: str | Sequence[int]) -> int:
    """Count the tokens of an input."""
    return tokens.count(given) if isinstance(given, str) else len(given)
