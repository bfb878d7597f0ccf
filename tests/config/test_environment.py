"""Tests of `llmproxy.config.environment`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.config.environment import FromEnvironment, interpolate

ENVIRON = {"HOST": "gpu-1", "EMPTY": "", "REF": "${HOST}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${HOST}", "gpu-1"),
        ("http://${HOST}:${PORT:-8000}/", "http://gpu-1:8000/"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${HOST:-x}", "gpu-1"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b$c}", "a:-b$c"),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$${HOST}"),
        ("$HOST {HOST} $", "$HOST {HOST} $"),
        ("${REF}", "${HOST}"),
    ],
)
def test_references(text: str, result: str) -> None:
    """As in a shell; what comes from the environment is not read again."""
    assert interpolate(text, ENVIRON) == result


def test_what_came_from_the_environment_is_marked() -> None:
    """Only a text with a real reference is."""
    assert isinstance(interpolate("${HOST}", ENVIRON), FromEnvironment)
    assert not isinstance(interpolate("$${HOST}", ENVIRON), FromEnvironment)
    assert not isinstance(interpolate("HOST", ENVIRON), FromEnvironment)


def test_all_missing_variables_are_named_at_once() -> None:
    """Each is named once, without any value."""
    with pytest.raises(ValueError, match=r"^\$\{A\}, \$\{B\} is not set") as caught:
        interpolate("sk-secret${A}${B}${A}", {})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", ["${", "${}", "${1X}", "${HOST", "${HOST:x}", "${A B}", "x${HOST-}"]
)
def test_malformed_references(bad: str) -> None:
    """They are told, not passed on as text."""
    with pytest.raises(ValueError, match="begins no reference"):
        interpolate(bad, ENVIRON)


@given(st.text(alphabet="${}:-AB_1 ", max_size=30))
def test_nothing_but_value_error(text: str) -> None:
    """Any text gives a text or a ValueError, and without ``${`` itself."""
    try:
        result = interpolate(text, {"A": "1"})
    except ValueError:
        assert "${" in text
    else:
        assert "${" in text or result == text
