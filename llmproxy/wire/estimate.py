"""Tokens that nobody has counted: what a request is going to need, and what it has used.

Pure arithmetic. A reservation should rather be too large than too small: what is too much comes
back when the answer is over.
"""

from __future__ import annotations

from typing import Final

import attrs

from llmproxy.values import NO_USAGE, Usage

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


def estimate_texts(text_bytes: int) -> int:
    """Estimate the tokens of an answer from the size of its texts."""
    return -(-text_bytes // BYTES_PER_TOKEN)


def completed(counted: Usage | None, *, prompt_tokens: int, completion_tokens: int) -> Usage:
    """Complete what a backend counted with what it did not.

    Args:
        counted: The backend's own counts; None: it told none.
        prompt_tokens: The estimate of the prompt, which stands where the backend counted none.
        completion_tokens: What was seen to be generated; the backend may have counted more.
    """
    counted = counted or NO_USAGE
    prompt = counted.prompt_tokens or prompt_tokens
    completion = max(counted.completion_tokens, completion_tokens)
    if (prompt, completion) == (counted.prompt_tokens, counted.completion_tokens):
        return counted
    return attrs.evolve(
        counted,
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
    )
