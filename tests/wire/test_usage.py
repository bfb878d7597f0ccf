"""Tests of the usage dialects and of the tally of several reports."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.values import Usage
from llmproxy.wire.usage import (
    UsageTally,
    read_messages_usage,
    read_responses_usage,
    read_usage,
)


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        (
            {"prompt_tokens": 17, "completion_tokens": 12, "total_tokens": 29},
            Usage(17, 12, 29),
        ),
        ({"prompt_tokens": 17, "completion_tokens": 12}, Usage(17, 12, 29)),
        ({"prompt_tokens": 3, "total_tokens": 3}, Usage(3, 0, 3)),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(3, 0, 3)),
        ({"total_tokens": 5}, Usage(5, 0, 5)),
        ({"prompt_tokens": 0}, Usage()),
        (
            {
                "prompt_tokens": 17,
                "completion_tokens": 12,
                "total_tokens": 29,
                "prompt_tokens_details": {"cached_tokens": 16},
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(17, 12, 29, 16, 4),
        ),
        (
            {
                "prompt_tokens": 1,
                "prompt_tokens_details": None,
                "completion_tokens_details": {"reasoning_tokens": None},
            },
            Usage(1, 0, 1),
        ),
        (
            {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": "x"}},
            Usage(1, 0, 1),
        ),
        ({"prompt_tokens": 1, "prompt_tokens_details": [1]}, Usage(1, 0, 1)),
        # DeepSeek's API, and SGLang.
        (
            {"prompt_tokens": 9, "prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 4},
            Usage(9, 0, 9, 5),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "reasoning_tokens": 3},
            Usage(9, 4, 13, 0, 3),
        ),
        (
            {"prompt_tokens": 9, "reasoning_tokens": "x", "prompt_cache_hit_tokens": -1},
            Usage(9, 0, 9),
        ),
    ],
)
def test_openai(report: object, usage: Usage) -> None:
    """Counts are read, missing parts are zero, the total is added up."""
    assert read_usage(report) == usage


@pytest.mark.parametrize(
    "report",
    [
        None,
        {},
        [],
        7,
        "x",
        {"input_tokens": 3, "output_tokens": 4},
        {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        {"prompt_tokens": None},
        {"prompt_tokens": "17"},
        {"prompt_tokens": ""},
        {"prompt_tokens": True},
        {"prompt_tokens": 1.0},
        {"prompt_tokens": -1},
        {"prompt_tokens": 2**70},
        {"prompt_tokens": 1, "completion_tokens": []},
    ],
)
def test_void(report: object) -> None:
    """What is not of the dialect, or malformed, is no usage."""
    assert read_usage(report) is None


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        ({"input_tokens": 17, "output_tokens": 12, "total_tokens": 29}, Usage(17, 12, 29)),
        ({"input_tokens": 17, "output_tokens": 12}, Usage(17, 12, 29)),
        (
            {
                "input_tokens": 17,
                "output_tokens": 12,
                "input_tokens_details": {"cached_tokens": 16},
                "output_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(17, 12, 29, 16, 4),
        ),
        ({"input_tokens": 17, "input_tokens_details": None}, Usage(17, 0, 17)),
        ({"prompt_tokens": 17}, None),
        ({"input_tokens": None}, None),
        ({"input_tokens": "17"}, None),
        ({"input_tokens": 17, "output_tokens": -1}, None),
        ({}, None),
        (None, None),
    ],
)
def test_responses(report: object, usage: Usage | None) -> None:
    """The Responses API has other names for the same."""
    assert read_responses_usage(report) == usage


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        ({"input_tokens": 17, "output_tokens": 12}, Usage(17, 12, 29)),
        (
            {
                "input_tokens": 1,
                "cache_read_input_tokens": 16,
                "cache_creation_input_tokens": 3,
                "output_tokens": 12,
            },
            Usage(20, 12, 32, 16),
        ),
        ({"input_tokens": 1, "cache_read_input_tokens": None, "output_tokens": 2}, Usage(1, 2, 3)),
        ({"output_tokens": 2}, Usage(0, 2, 2)),
        ({"input_tokens": 1, "cache_read_input_tokens": "x"}, None),
        ({"input_tokens": 1.5}, None),
        ({"input_tokens": 1, "output_tokens": True}, None),
        ({"service_tier": "standard"}, None),
        ([], None),
    ],
)
def test_messages(report: object, usage: Usage | None) -> None:
    """The Messages API counts what the cache took part in apart from the rest of the prompt."""
    assert read_messages_usage(report) == usage


_KEYS = ["prompt_tokens", "prompt_tokens_details", "input_tokens", "output_tokens_details", "x"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(_KEYS), inner),
    max_leaves=6,
)


@given(report=_JSON)
def test_never_raises(report: object) -> None:
    """Any JSON at all gives counts that are not negative, or none."""
    for read in (read_usage, read_responses_usage, read_messages_usage):
        usage = read(report)
        assert usage is None or min(attrs.astuple(usage)) >= 0


def test_nothing_reported() -> None:
    """Without a report there is no usage."""
    tally = UsageTally()
    tally.choice_finished()
    assert tally.total() is None


def test_cumulative_reports_on_choices() -> None:
    """The last report of each choice stands; completions add up, the prompt is one."""
    tally = UsageTally()
    for tokens in (1, 2, 3):
        tally.add_on_choice(0, Usage(17, tokens, 17 + tokens, 16))
        tally.add_on_choice(1, Usage(17, tokens + 1, 18 + tokens))
    assert tally.total() == Usage(17, 7, 24, 16)


def test_prompts_of_their_own() -> None:
    """A text completion may have a prompt for each choice."""
    tally = UsageTally()
    tally.add_on_choice(1, Usage(3, 12, 15, 0), own_prompt=True)
    tally.add_on_choice(0, Usage(4, 12, 16, 3), own_prompt=True)
    assert tally.total() == Usage(7, 24, 31, 3)


def test_report_of_the_answer_overrides() -> None:
    """What is said of the whole answer overrides what was said on its choices."""
    tally = UsageTally()
    tally.add_on_choice(0, Usage(17, 3, 20))
    tally.choice_finished()
    tally.add_of_answer(Usage(17, 24, 41))
    assert tally.total() == Usage(17, 24, 41)


def test_reports_after_each_finish_add_up() -> None:
    """llama-server reports each choice after its finish reason."""
    tally = UsageTally()
    for cached in (16, 15):
        tally.choice_finished()
        tally.add_of_answer(Usage(17, 12, 29, cached, 1))
    assert tally.total() == Usage(17, 24, 41, 16, 2)


def test_reports_without_a_finish_between_replace() -> None:
    """A cumulative report that is sent again is not added."""
    tally = UsageTally()
    tally.add_of_answer(Usage(17, 1, 18))
    tally.add_of_answer(Usage(17, 2, 19))
    tally.choice_finished()
    tally.choice_finished()
    assert tally.total() == Usage(17, 2, 19)
