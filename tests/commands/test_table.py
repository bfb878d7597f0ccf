"""Tests of `llmproxy.commands.table`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.commands.table import Column, cells, cut, printable, render

NAME = Column(title="NAME", least_cells=5)
STATE = Column(title="STATE")
COUNT = Column(title="COUNT", right=True)


def test_columns_are_as_wide_as_their_widest() -> None:
    """Texts to the left, numbers to the right, nothing empty, no spaces at the end."""
    assert render([NAME, COUNT, STATE], [["a", "12", "up"], ["bcdefgh", "1,234", ""]]) == [
        "NAME     COUNT  STATE",
        "a           12  up",
        "bcdefgh  1,234  -",
    ]


def test_an_empty_table_is_its_heading() -> None:
    """So that who reads it knows what there could be."""
    assert render([NAME, COUNT], []) == ["NAME  COUNT"]


def test_a_total_stands_below_a_line() -> None:
    """Its empty texts stay empty."""
    assert render([STATE, NAME, COUNT], [["up", "a", "1"]], total=["total", "", "12345"]) == [
        "STATE  NAME  COUNT",
        "up     a         1",
        "-----  ----  -----",
        "total        12345",
    ]


def test_wide_characters_take_two_cells() -> None:
    """A column stays straight with East Asian text and combining marks in it."""
    lines = render([NAME, STATE], [["日本語", "up"], ["abc", "up"], ["e\u0301", "up"]])
    assert lines == ["NAME    STATE", "日本語  up", "abc     up", "e\u0301       up"]


def test_the_widest_is_cut_first() -> None:
    """Down to its least; what may not be cut is whole."""
    other = Column(title="OTHER", least_cells=6)
    rows = [["abcdefghijklmnop", "abcdefgh", "whole text"]]
    assert render([NAME, other, STATE], rows, width_cells=30) == [
        "NAME      OTHER     STATE",
        "abcdefg…  abcdefgh  whole text",
    ]
    assert render([NAME, other, STATE], rows, width_cells=1)[1] == "abcd…  abcde…  whole text"


def test_what_can_be_spared_goes_before_more_is_cut_than_may_be() -> None:
    """The highest first, and no more than needed."""
    columns = [STATE, Column(title="ONE", spare=1), Column(title="TWO", spare=2)]
    rows = [["running", "first", "second"]]
    assert render(columns, rows, width_cells=22)[1] == "running  first  second"
    assert render(columns, rows, width_cells=21)[1] == "running  first"
    assert render(columns, rows, width_cells=13)[1] == "running"


def test_terminals_obey_nothing_in_a_text() -> None:
    """Escape sequences, line ends and turned writing come out as question marks."""
    lines = render([NAME], [["a\x1b[2Jb\nc\u202ed\ud800"]])
    assert lines == ["NAME", "a?[2Jb?c?d?"]


@pytest.mark.parametrize(
    ("text", "most", "wanted"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 5, "日本…"), ("日本語", 4, "日…")],
)
def test_cut(text: str, most: int, wanted: str) -> None:
    """A wide character that does not fit as a whole goes as a whole."""
    assert cut(text, most) == wanted


@given(st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3)), st.integers(20, 60))
def test_no_line_is_wider_than_it_may_be(rows: list[list[str]], width: int) -> None:
    """Whatever is in it, where every column may be cut."""
    columns = [Column(title=title, least_cells=3) for title in ("ONE", "TWO", "SIX")]
    for line in render(columns, rows, width_cells=width):
        assert line == printable(line)
        assert cells(line) <= width
