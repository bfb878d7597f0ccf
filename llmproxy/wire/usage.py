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


def read_usage(report: object) -> Usage | None:
    """Read a parsed ``usage`` object of chat completions, completions or embeddings.

    Parts that are absent or null are zero; a total that is absent is added up, a total alone is
    the prompt's (rerankers). Details of the wrong kind are left out; a main count of the wrong kind
    makes the report void. Cached tokens are OpenAI's, or those of DeepSeek's API
    (``prompt_cache_hit_tokens``); reasoning tokens are OpenAI's, or those that SGLang reports
    beside the main counts.

    Args:
        report: What stood under the key ``usage``, of any type.

    Returns:
        The counts; None when the report is not of this dialect, or void.
    """
    if not isinstance(report, dict) or "input_tokens" in report:
        return None
    return _read(
        report,
        ("prompt_tokens",),
        "completion_tokens",
        cached=_detail(report, "prompt_tokens_details", "cached_tokens")
        or _count(report, "prompt_cache_hit_tokens")
        or 0,
        reasoning=_detail(report, "completion_tokens_details", "reasoning_tokens")
        or _count(report, "reasoning_tokens")
        or 0,
    )


def read_responses_usage(report: object) -> Usage | None:
    """Read a parsed ``usage`` object of the Responses API; see `read_usage`."""
    if not isinstance(report, dict):
        return None
    return _read(
        report,
        ("input_tokens",),
        "output_tokens",
        cached=_detail(report, "input_tokens_details", "cached_tokens"),
        reasoning=_detail(report, "output_tokens_details", "reasoning_tokens"),
    )


def read_messages_usage(report: object) -> Usage | None:
    """Read a parsed ``usage`` object of the Messages API; see `read_usage`.

    There ``input_tokens`` are only those that were neither read from the cache nor written to it;
    all three together are the prompt.
    """
    if not isinstance(report, dict):
        return None
    return _read(
        report,
        ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
        "output_tokens",
        cached=_count(report, "cache_read_input_tokens") or 0,
        reasoning=0,
    )


def _read(
    report: dict[str, object],
    prompt_keys: tuple[str, ...],
    completion_key: str,
    *,
    cached: int,
    reasoning: int,
) -> Usage | None:
    """Read the main counts; None when there are none, or one is void."""
    prompt = 0
    for key in prompt_keys:
        part = _count(report, key)
        if part is None:
            return None
        prompt += part
    completion = _count(report, completion_key)
    total = _count(report, "total_tokens")
    if completion is None or total is None:
        return None
    if not (prompt or completion or total):
        keys = (*prompt_keys, completion_key, "total_tokens")
        if all(report.get(key) is None for key in keys):
            return None
    if not (prompt or completion):
        prompt = total  # rerankers generate nothing
    return Usage(prompt, completion, total or prompt + completion, cached, reasoning)


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
