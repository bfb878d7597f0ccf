"""Usage dialects: what backends call the tokens they counted, read into one `Usage`.

And the rule by which several reports of one streamed answer become one (`UsageTally`). What is
malformed is no usage; nothing here ever raises. The module must not know how a report was found.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from llmproxy.values import Usage

_LARGEST = 2**53
"""Counts above it are nonsense, and would not survive receivers that read JSON into doubles."""

# Rerankers report a total alone; the Responses dialect, too, has a total, beside input_tokens.
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def read_usage(report: object) -> Usage | None:
    """Read a parsed ``usage`` object of chat completions, completions or embeddings.

    Parts that are absent or null are zero; a total that is absent is added up. Details of the
    wrong kind are left out; a main count of the wrong kind makes the report void.

    Args:
        report: What stood under the key ``usage``, of any type.

    Returns:
        The counts; None when the report is not of this dialect, or void.
    """
    if not isinstance(report, dict) or "input_tokens" in report:
        return None
    prompt = _count(report, "prompt_tokens")
    completion = _count(report, "completion_tokens")
    total = _count(report, "total_tokens")
    if prompt is None or completion is None or total is None:
        return None
    if not (prompt or completion or total) and all(report.get(key) is None for key in _COUNTS):
        return None
    return Usage(
        prompt,
        completion,
        total or prompt + completion,
        _detail(report, "prompt_tokens_details", "cached_tokens"),
        _detail(report, "completion_tokens_details", "reasoning_tokens"),
    )


def _count(report: dict[str, object], key: str) -> int | None:
    """Return the count under a key, 0 when it is absent or null, None when it is none."""
    value = report.get(key)
    if value is None:
        return 0
    return value if type(value) is int and 0 <= value <= _LARGEST else None


def _detail(report: dict[str, object], group: str, key: str) -> int:
    details = report.get(group)
    return (_count(details, key) or 0) if isinstance(details, dict) else 0


@attrs.define
class UsageTally:
    """One answer's usage from the reports of its stream.

    Two kinds of report are told apart by their event's ``choices``:

    - *On a choice* (``choices`` not empty): cumulative, and of this choice alone. vLLM and SGLang
      send it with every chunk when usage is continuous, llama-server and transformers once, with
      the finish reason. The last of each choice stands; the choices' completions add up. Their
      prompt is one and the same in a chat; a text completion may have a prompt for each choice
      (a list of prompts), so there the prompts add up too.
    - *Of the answer* (``choices`` empty): it overrides what stood on choices. Most servers send
      one, at the end. llama-server sends one after each choice's finish reason, for that choice
      (``n`` above 1): reports with a finish reason between them add up, the prompt counted once;
      without one between them the later replaces the earlier.
    """

    _by_choice: dict[int, Usage] = attrs.field(factory=dict, init=False)
    _own_prompts: bool = attrs.field(default=False, init=False)
    _of_answer: list[Usage] = attrs.field(factory=list, init=False)
    _finished_since: bool = attrs.field(default=True, init=False)

    def choice_finished(self) -> None:
        """Note that a choice got its finish reason."""
        self._finished_since = True

    def add_on_choice(self, choice: int, usage: Usage, *, own_prompt: bool = False) -> None:
        """Take a report that stood on a choice.

        Args:
            choice: The choice's index.
            usage: The report.
            own_prompt: Whether each choice may have its own prompt.
        """
        self._by_choice[choice] = usage
        self._own_prompts = own_prompt

    def add_of_answer(self, usage: Usage) -> None:
        """Take a report of an event without choices; call after `choice_finished`."""
        if not self._finished_since and self._of_answer:
            self._of_answer.pop()
        self._of_answer.append(usage)
        self._finished_since = False

    def total(self) -> Usage | None:
        """Return the whole answer's usage; None when nothing was reported."""
        if self._of_answer:
            return _added_up(self._of_answer, own_prompts=False)
        if self._by_choice:
            return _added_up(self._by_choice.values(), own_prompts=self._own_prompts)
        return None


def _added_up(reports: Iterable[Usage], *, own_prompts: bool) -> Usage:
    """Add completions up, and prompts too or the largest of them once."""
    usages = list(reports)
    if len(usages) == 1:
        return usages[0]
    once_or_each = sum if own_prompts else max
    prompt = once_or_each(usage.prompt_tokens for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=once_or_each(usage.cached_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
    )
