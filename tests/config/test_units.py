"""Tests of `llmproxy.config.units`."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.config import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("100ms", 0.1),
        ("30s", 30),
        ("1.5s", 1.5),
        ("5m", 300),
        ("1h", 3600),
        ("2d", 172800),
        ("10 s", 10),
        (0, 0),
        (7, 7),
        (0.25, 0.25),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    """A number with a unit, or a number of seconds."""
    assert units.duration(text) == seconds


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "5",
        "5 minutes",
        "s",
        "-5s",
        "1h30m",
        "5S",
        "1e3s",
        "٣s",
        "5s\n",
        "9" * 400 + "d",
        -1,
        -0.5,
        True,
        None,
        [],
        {},
        math.nan,
        math.inf,
        -math.inf,
        10**400,
    ],
)
def test_values_that_are_no_duration(bad: object) -> None:
    """Neither negative nor endless."""
    with pytest.raises(ValueError, match="500ms"):
        units.duration(bad)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("64MiB", 64 * 2**20),
        ("10MB", 10**7),
        ("32KiB", 32768),
        ("1GiB", 2**30),
        ("1.5KiB", 1536),
        ("5kB", 5000),
        ("7B", 7),
        (123, 123),
        (2**62 + 1, 2**62 + 1),
        (1024.0, 1024),
    ],
)
def test_sizes(text: object, size_bytes: int) -> None:
    """A number with a unit, or a number of bytes, exactly."""
    result = units.size(text)
    assert result == size_bytes
    assert type(result) is int


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "64",
        "64M",
        "64mib",
        "-1MiB",
        "1.5B",
        "MiB",
        "9" * 400 + "MiB",
        "9999999TiB",
        -1,
        0.5,
        True,
        None,
        [],
        math.nan,
        math.inf,
        2**63,
        10**400,
    ],
)
def test_values_that_are_no_size(bad: object) -> None:
    """Neither negative nor beyond 63 bits."""
    with pytest.raises(ValueError, match="64MiB"):
        units.size(bad)


@pytest.mark.parametrize(
    ("text", "percent"), [("50%", 50), ("0%", 0), ("100%", 100), ("33.3%", 33.3), ("20 %", 20)]
)
def test_percentages(text: str, percent: float) -> None:
    """A number from 0 to 100 with its sign."""
    assert units.percent(text) == percent


@pytest.mark.parametrize(
    "bad", ["", "%", "50", "-1%", "101%", "100.1%", "5e1%", "٣%", "50%\n", 50, 0.5, None, True, []]
)
def test_what_is_no_percentage(bad: object) -> None:
    """A number without its sign may be meant as a fraction: nothing is guessed."""
    with pytest.raises(ValueError, match="such as 50%"):
        units.percent(bad)


@pytest.mark.parametrize("good", ["10.0.0.0/8", "fd00::/8", "192.0.2.7", "::1", "0.0.0.0/0"])
def test_networks(good: str) -> None:
    """Networks and addresses of both families."""
    assert units.cidr(good) == good


@pytest.mark.parametrize("bad", ["", "10.0.0", "10.0.0.0/33", "host", "fe80::1%eth0", 10, None])
def test_what_is_no_network(bad: object) -> None:
    """Neither names nor zones nor numbers."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/8"):
        units.cidr(bad)


def test_a_network_with_host_bits_is_told_the_right_one() -> None:
    """``10.0.0.1/8`` is a mistake more often than a network."""
    with pytest.raises(ValueError, match=r"^10\.0\.0\.0/8: no bits"):
        units.cidr("10.0.0.1/8")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86400),
        ("1970-01-01T00:01:00", 60),
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01 01:01:00+01:00", 60),
    ],
)
def test_times(text: str, seconds: float) -> None:
    """ISO 8601; UTC where no zone is given."""
    assert units.timestamp(text) == seconds


@pytest.mark.parametrize(
    "bad",
    [
        *("", "tomorrow", "2030-13-01", "31.12.2030", 0, None),
        *("9999-12-31T23:30:00-01:00", "0001-01-01T00:30:00+01:00"),
    ],
)
def test_what_is_no_time(bad: object) -> None:
    """Numbers are none: nobody reads them. Nor is what UTC has no year for."""
    with pytest.raises(ValueError, match="2030-12-31"):
        units.timestamp(bad)


@given(st.text() | st.floats() | st.integers() | st.none() | st.booleans())
def test_nothing_but_value_error(value: object) -> None:
    """Whatever stands in a file, the answer is a value in bounds or a ValueError."""
    for convert in (units.duration, units.size, units.percent, units.cidr, units.timestamp):
        try:
            result = convert(value)
        except ValueError:
            continue
        if convert in (units.duration, units.size, units.percent):
            assert isinstance(result, float | int)
            assert 0 <= result < math.inf
