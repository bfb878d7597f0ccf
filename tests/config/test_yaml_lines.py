"""Tests of `llmproxy.config.yaml_lines`."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.config.findings import Findings
from llmproxy.config.yaml_lines import BROKEN, plain_scalar, read_tree


def tree_of(text: str) -> tuple[Any, Findings]:
    """Read a text with an empty environment."""
    findings = Findings("x.yaml")
    return read_tree(text, {}, findings), findings


def told(text: str) -> list[str]:
    """Tell the problems of a text."""
    findings = tree_of(text)[1]
    return [str(problem) for problem in findings.error().problems] if findings else []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("Null", None),
        ("yes", True),
        ("Off", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("0", 0),
        ("-12", -12),
        ("10_000", 10000),
        ("0x1F", 31),
        ("010", "010"),
        ("1:30", "1:30"),
        ("1__0", "1__0"),
        ("1.5", 1.5),
        ("1.0e3", 1000.0),
        (".5", 0.5),
        ("1e3", "1e3"),
        ("9" * 5000, "9" * 5000),
        ("2030-01-01", "2030-01-01"),
        (".inf", math.inf),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    """YAML 1.1 without octal numbers, base 60 and dates."""
    assert plain_scalar(text) == value
    assert type(plain_scalar(text)) is type(value)


def test_every_key_and_item_has_its_line() -> None:
    """A key has its own line, an item that on which it begins."""
    tree, findings = tree_of("\na: 1\nb:\n  - c: x\n    d: 'y\n\n      z'\n  - e\n")
    assert tree == {"a": 1, "b": [{"c": "x", "d": "y\nz"}, "e"]}
    assert findings.lines == {
        (): 2,
        ("a",): 2,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 0, "c"): 4,
        ("b", 0, "d"): 5,
        ("b", 1): 8,
    }
    assert findings.sources == {("a",): "1"}


def test_quotes_make_text() -> None:
    """So does ``!!str``."""
    assert tree_of("[\"1\", 'yes', !!str 1, !!int '1']")[0] == ["1", "yes", "1", 1]


def test_anchors_aliases_and_merges() -> None:
    """The mapping's own keys are stronger than merged ones, and earlier merges than later ones."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 0\nd: *a\n"
    tree, findings = tree_of(text)
    assert tree["c"] == {"x": 0, "y": 1, "z": 2}
    assert tree["d"] == tree["a"]
    assert tree["d"] is not tree["a"]
    assert not findings


def test_merges_of_merges() -> None:
    """A merged mapping brings what it merges itself."""
    text = "a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b}\n"
    assert tree_of(text)[0]["c"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml: is empty; want at least backends:"),
        ("# only\n", "x.yaml: is empty; want at least backends:"),
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: a: is given twice, on lines 1 and 3"),
        ("a:\n  - b: 1\n    b: 1\n", "x.yaml:3: a[0].b: is given twice, on lines 2 and 3"),
        ("a: &x [*x]\n", "x.yaml:1: a[0]: is an alias of what it stands in"),
        ("a: &x {<<: *x}\n", "x.yaml:1: a: merges (<<) what it stands in"),
        ("a: {<<: 5}\n", "x.yaml:1: a: merges (<<) something that is no mapping"),
        ("a: b: c\n", "x.yaml:1: is not YAML: mapping values are not allowed here (column 5)"),
        ("a:\n\t- b\n", "x.yaml:2: is not YAML: while scanning for the next token"),
        ("a: [1\n", "x.yaml:2: is not YAML: while parsing a flow sequence"),
        ("a: 1\n--- \nb: 2\n", "x.yaml:2: is not YAML: expected a single document"),
        ("a: \x07\n", "x.yaml:1: has a character that YAML forbids (U+0007)"),
        ("x: 1\ny: !foo 1\n", "x.yaml:2: y: has a YAML tag"),
        ("x: !!set {a}\n", "x.yaml:1: x: has a YAML tag"),
        ("x: !!python/object:os.system {}\n", "x.yaml:1: x: has a YAML tag"),
        ("a:\n  5: x\n", "x.yaml:2: a: has a key that YAML does not read as text"),
        ("on: x\n", "x.yaml:1: has a key that YAML does not read as text"),
        ("[a]: x\n", "x.yaml:1: has a key that is a list or a mapping"),
        ("? !x a\n: x\n", "x.yaml:1: has a key with a YAML tag"),
        ("x: ${A}\n", "x.yaml:1: x: ${A} is not set in the environment"),
        ("x: {a: ${A}}\n", 'inside {...} and [...], ${NAME} must stand in quotes: "${NAME}"'),
        ("x: " + "[" * 800, "x.yaml: is nested too deeply"),
        ('x: "\\UFFFFFFFF"\n', "x.yaml: is not YAML: a number in an escape"),
    ],
)
def test_problems(text: str, expected: str) -> None:
    """Each is told with its line, path and reason."""
    assert len(told(text)) == 1
    assert expected in told(text)[0]


def test_alias_bombs_are_bounded() -> None:
    """A billion laughs end at once."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        refs = ", ".join([f"*a{level - 1}"] * 10)
        text += f"a{level}: &a{level} [{refs}]\n"
    assert told(text) == ["x.yaml: has more than 100000 values once its aliases are written out"]


@pytest.mark.parametrize("text", ["k: *sk-secret\n", "k: !sk-secret!x y\n", "k: !sk-secret y\n"])
def test_syntax_errors_show_nothing_of_the_file(text: str) -> None:
    """An unquoted secret may begin like an alias or a tag."""
    (problem,) = told(text)
    assert "secret" not in problem


@given(st.text(max_size=60) | st.text(alphabet="ab:- \n[]{}&*!|>'\"#%@,?<\t", max_size=60))
def test_any_text_gives_a_tree_or_a_problem(text: str) -> None:
    """Never another exception, and a broken root is always told."""
    tree, findings = tree_of(text)
    assert findings or tree is not BROKEN
