"""Tests of `llmproxy.config.findings`."""

from __future__ import annotations

import pytest

from llmproxy.config.findings import Findings, KeyPath, hidden, path_text, quoted


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("backends", 0, "url"), "backends[0].url"),
        (("backends", 0, "headers", "X-Team"), "backends[0].headers.X-Team"),
        (("a", "b.c", "d e"), 'a["b.c"]["d e"]'),
    ],
)
def test_paths_read_as_people_write_them(path: KeyPath, text: str) -> None:
    """Dots between keys, brackets around positions and odd keys."""
    assert path_text(path) == text


def test_values_are_shown_short_and_printable() -> None:
    """Neither length nor control characters nor lone surrogates get through."""
    assert quoted("a\nb") == '"a\\nb"'
    assert len(quoted("x" * 1000)) == 62
    quoted("\ud800").encode()
    assert quoted("größe") == '"größe"'


def test_hidden_values_tell_only_their_size() -> None:
    """Of a possible secret nothing is shown but its length."""
    assert hidden("sk-secret") == "a value of 9 characters"
    assert hidden(12345) == "a number (hidden)"
    assert hidden(True) == "true"


def test_the_line_of_what_is_missing_is_that_of_what_it_is_missing_from() -> None:
    """The nearest part above that stands in the file gives the line."""
    findings = Findings("x.yaml", lines={(): 1, ("a",): 3, ("a", 0): 5})
    assert findings.line(("a", 0, "name")) == 5
    assert findings.line(("a", 1)) == 3
    assert findings.line(("b",)) == 1


def test_problems_come_in_the_order_of_the_file_and_once() -> None:
    """They are sorted by line, and the same one is not told twice."""
    findings = Findings("x.yaml", lines={("a",): 2, ("b",): 1})
    assert not findings
    findings.add(("a",), "is bad")
    findings.add(("a",), "is bad")
    findings.add(("b",), "is worse")
    assert findings
    told = [str(problem) for problem in findings.error().problems]
    assert told == ["x.yaml:1: b: is worse", "x.yaml:2: a: is bad"]


@pytest.mark.parametrize(
    ("path", "needs"),
    [
        (("a",), ()),
        (("a", 0), ()),
        (("a", 0, "b", "c"), ()),
        (("z",), (("a", 0, "b"),)),
    ],
)
def test_no_check_speaks_of_what_follows_from_another_problem(
    path: KeyPath, needs: tuple[KeyPath, ...]
) -> None:
    """What is at, above or below a broken path is left out; the rest is not."""
    findings = Findings("x.yaml")
    findings.mark_broken(("a", 0, "b"))
    findings.check(path, "is bad", needs=needs)
    assert not findings
    findings.check(("a", 1), "is bad", needs=(("y",),))
    assert len(findings.error().problems) == 1
