"""Tests of the demo model's vectors."""

from __future__ import annotations

import base64
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.backends.demo import embeddings


@given(st.text() | st.lists(st.integers(), min_size=1), st.integers(1, 300))
def test_a_vector_has_length_one_and_is_always_the_same(
    given: str | list[int], dimensions: int
) -> None:
    """For any input and any number of dimensions."""
    vector = embeddings.vector(given, dimensions)
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-5)
    assert vector == embeddings.vector(given, dimensions)


def test_different_inputs_have_different_vectors() -> None:
    """Texts, token ids and texts that look like them are told apart by their hash."""
    vectors = [embeddings.vector(given, 8) for given in ("a", "b", [1, 2], [12])]
    assert len({tuple(vector) for vector in vectors}) == 4


def test_both_encodings_say_the_same() -> None:
    """Base64 holds exactly the numbers of the list."""
    vector = embeddings.vector("a", 5)
    packed = base64.b64decode(embeddings.as_base64(vector))
    assert list(struct.unpack("<5f", packed)) == vector


@pytest.mark.parametrize(("given", "tokens"), [("one two", 2), ([5, 6, 7], 3)])
def test_inputs_are_counted(given: str | list[int], tokens: int) -> None:
    """Texts by the token rule, token ids one by one."""
    assert embeddings.count(given) == tokens
