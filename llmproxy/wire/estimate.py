"""Tokens that nobody has counted yet: what a request is going to need, and what it is charged.

Pure arithmetic. A reservation should rather be too large than too small: what is too much comes
back when the answer is over.
"""

from __future__ import annotations

from typing import Final

from llmproxy.values import Usage, UsageSource

BYTES_PER_TOKEN: Final = 4
"""Of English text and code, on the average; JSON's own signs make up for shorter words."""

USUAL_ANSWER_TOKENS: Final = 4096
"""What is reserved for an answer whose length neither the client nor the configuration limits."""


def estimate_prompt(body_bytes: int, context: int | None) -> int:
    """Estimate the tokens of a prompt from the size of its request.

    Args:
        body_bytes: The whole body, images in it included.
        context: The model's context window in tokens, which no prompt exceeds; None: not known.
    """
    tokens = body_bytes // BYTES_PER_TOKEN + 1
    return tokens if context is None or tokens < context else context


def longest_answer(max_tokens: int | None, output: int | None) -> int:
    """Say how long an answer may become, in tokens.

    Args:
        max_tokens: What the client asked for; None: it did not say.
        output: The model's longest answer as configured; None: not configured.
    """
    if max_tokens is None:
        return USUAL_ANSWER_TOKENS if output is None else output
    return max_tokens if output is None or max_tokens < output else output


def spent_tokens(
    usage: Usage, source: UsageSource, *, prompt_tokens: int, answered: bool, bytes_out: int
) -> int:
    """Say how many tokens an exchange is charged.

    Args:
        usage: What the meter read.
        source: How far that is to be trusted.
        prompt_tokens: The estimate of the prompt.
        answered: Whether a backend gave an answer, and not an error, of which something may have
            been relayed.
        bytes_out: Bytes of the body given to the client.

    Returns:
        The backend's own counts as far as there are any. A part that it did not count is estimated:
        the prompt by the request's size, the answer by its own. Nothing when no backend answered.
    """
    if source == "exact":
        return usage.total_tokens
    if source == "partial":
        return (usage.prompt_tokens or prompt_tokens) + usage.completion_tokens
    return prompt_tokens + bytes_out // BYTES_PER_TOKEN if answered else 0
