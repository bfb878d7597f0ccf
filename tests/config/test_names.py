"""Tests of `llmproxy.config.names`."""

from __future__ import annotations

import pytest

from llmproxy.config.findings import Findings
from llmproxy.config.names import check_names, check_reference


def told(findings: Findings) -> list[str]:
    """Give the problems as text."""
    return [str(problem) for problem in findings.error().problems] if findings else []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], []),
        (["", "a"], ['x[0]: "" is empty; want a name']),
        (["a", " "], ['x[1]: " " is empty; want a name']),
        (["a\t"], ['x[0]: "a\\t" has control characters; want it without']),
        (["a", "b", "a"], ['x[2]: "a" is taken by x[0]; want a unique one']),
    ],
)
def test_names(names: list[str], expected: list[str]) -> None:
    """They are there, can be printed, and are unique."""
    findings = Findings("")
    check_names(findings, [(("x", index), name) for index, name in enumerate(names)])
    assert told(findings) == expected


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("primary", ["primary"], []),
        ("primry", ["other", "primary"], ['"primry" is not a cache; did you mean "primary"?']),
        ("x", ["one", "two"], ['"x" is not a cache; want one of: one, two']),
        ("", ["one"], ['"" is not a cache; want one of: one']),
        ("x", [], ['"x" is not a cache; want one of caches, where there is none']),
        ("x", ["one", ""], []),
    ],
)
def test_references(name: str, known: list[str], expected: list[str]) -> None:
    """The nearest name, or all; where one of those could not be read, nothing is said."""
    findings = Findings("")
    check_reference(findings, ("a", "b"), name, known, ("caches",), "a cache")
    assert told(findings) == [f"a.b: {one}" for one in expected]


def test_nothing_is_missed_where_the_list_is_broken() -> None:
    """It may be in what could not be read."""
    findings = Findings("")
    findings.mark_broken(("caches",))
    check_reference(findings, ("a",), "x", [], ("caches",), "a cache")
    assert not findings
