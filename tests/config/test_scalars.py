"""Tests of `llmproxy.config.scalars`."""

from __future__ import annotations

import math

import pytest

from llmproxy.config import scalars
from llmproxy.config.environment import FromEnvironment
from llmproxy.config.scalars import AlreadyReportedError, Reader, WrongValueError
from llmproxy.config.yaml_lines import BROKEN

ALL: list[Reader] = [
    scalars.text,
    scalars.boolean,
    scalars.whole_number(None),
    scalars.number(None),
    scalars.duration(None),
    scalars.size(None),
    scalars.cidr,
    scalars.percent,
    scalars.timestamp,
    scalars.one_of(("a", "b")),
]


@pytest.mark.parametrize(
    ("read", "good"),
    [
        (scalars.text, "x"),
        (scalars.boolean, True),
        (scalars.whole_number(1), 1),
        (scalars.whole_number(1), scalars.LARGEST_NUMBER),
        (scalars.number(None), 1.5),
        (scalars.one_of(("a", "b")), "b"),
        (scalars.optional(scalars.boolean), None),
        (scalars.either(("auto",), scalars.whole_number(None)), "auto"),
        (scalars.either(("auto",), scalars.whole_number(None)), 2),
    ],
)
def test_the_right_type_passes(read: Reader, good: object) -> None:
    """It comes out as it went in."""
    assert read(good) == good


@pytest.mark.parametrize(
    ("read", "bad"),
    [
        (scalars.text, 5),
        (scalars.text, True),
        (scalars.text, None),
        (scalars.text, "a\x00b"),
        (scalars.text, "\ud800"),
        (scalars.boolean, "true"),
        (scalars.boolean, 1),
        (scalars.whole_number(None), True),
        (scalars.whole_number(None), "1"),
        (scalars.whole_number(None), 1.0),
        (scalars.whole_number(1), 0),
        (scalars.whole_number(None), scalars.LARGEST_NUMBER + 1),
        (scalars.whole_number(None), 10**200),
        (scalars.number(None), math.nan),
        (scalars.number(None), math.inf),
        (scalars.number(None), 10**400),
        (scalars.number(1), 0.5),
        (scalars.number(None), False),
        (scalars.duration(0.01), 0),
        (scalars.size(1), 0),
        (scalars.one_of(("a", "b")), "c"),
        (scalars.one_of(("1.2", "1.3")), 1.2),
        (scalars.either(("auto",), scalars.whole_number(None)), "many"),
    ],
)
def test_nothing_is_guessed(read: Reader, bad: object) -> None:
    """Another type, or a value out of bounds, is wrong."""
    with pytest.raises(WrongValueError) as caught:
        read(bad)
    assert caught.value.value is bad
    assert caught.value.reason
    assert caught.value.wanted or caught.value.quote


@pytest.mark.parametrize("read", ALL)
@pytest.mark.parametrize("bad", [None, [], {}, ["a"], {"a": 1}])
def test_scalars_are_no_collections(read: Reader, bad: object) -> None:
    """Neither null nor lists nor mappings are scalars."""
    with pytest.raises(WrongValueError):
        read(bad)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (scalars.boolean, "true", True),
        (scalars.whole_number(None), "3", 3),
        (scalars.number(None), "1.5", 1.5),
        (scalars.duration(None), "30", 30.0),
        (scalars.duration(None), "5m", 300.0),
        (scalars.size(None), "1MB", 10**6),
        (scalars.text, "123", "123"),
        (scalars.optional(scalars.whole_number(None)), "", None),
    ],
)
def test_the_environment_has_only_text(read: Reader, text: str, value: object) -> None:
    """What comes from there is read as if it stood in the file, and is plain afterwards."""
    result = read(FromEnvironment(text))
    assert result == value
    assert type(result) is type(value)


def test_numbers_say_their_minimum() -> None:
    """The wanted value names it."""
    with pytest.raises(WrongValueError) as caught:
        scalars.whole_number(1)("heavy")
    assert caught.value.wanted == "one of at least 1"


def test_broken_values_are_not_told_again() -> None:
    """They have their own error."""
    assert scalars.intact(5) == 5
    with pytest.raises(AlreadyReportedError):
        scalars.intact(BROKEN)


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("backend", "backends"),
        ("maxBodySize", "max_body_size"),
        ("max-body-size", "max_body_size"),
        ("MODELS", "models"),
        ("zzz", ""),
    ],
)
def test_closest(word: str, near: str) -> None:
    """Typing errors and other ways of joining words are seen through."""
    assert scalars.closest(word, ("backends", "models", "max_body_size")) == near
