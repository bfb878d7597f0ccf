"""The gateway as OpenCode is to see it."""

from __future__ import annotations

import pytest

from llmproxy.config.opencode import longest_head_wait_s, longest_silence_s, provider_of
from tests.config.conftest import Load

START = "auth: {enabled: false, header_names: [X-Team-Key, Authorization]}\n"
ONE = START + "backends: [{name: a, url: 'demo:', first_byte_timeout: 100s, connect_timeout: 2s}]\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (ONE, 3 * 2 + 2 * 2 + 100),
        (ONE + "routing: {retry: {enabled: false}}", 2 + 100),
        (ONE + "routing: {retry: {max_retries: 1, max_wait: 5s}}", 2 * 2 + 5 + 100),
        (ONE + "models: [{id: m, first_byte_timeout: 900s}]", 3 * 2 + 2 * 2 + 900),
        (ONE + "models: [{id: m, first_byte_timeout: 1s}]", 3 * 2 + 2 * 2 + 100),
        (ONE + "models: [{id: m, first_byte_timeout: 0}]", None),
        (ONE.replace("}]", ", max_concurrent: 8}]"), 60 + 3 * 2 + 2 * 2 + 100),
        (ONE.replace("}]", ", max_concurrent: 8}]") + "routing: {queue: {max_wait: 0}}", None),
        (ONE.replace("100s", "0"), None),
        (ONE.replace("2s", "0"), None),
    ],
)
def test_until_the_head(load: Load, text: str, seconds: float | None) -> None:
    """All tries, and the waits between them; 0 anywhere is no bound."""
    assert longest_head_wait_s(load(text)) == seconds


@pytest.mark.parametrize(
    ("clocks", "more", "seconds"),
    [
        ((("60s", "20s"), ("90s", "20s")), "", 90),
        ((("60s", "20s"), ("0", "20s")), "", None),
        ((("60s", "0"), ("60s", "20s")), "", None),
        ((("1s", "1s"), ("1s", "7s")), "", 7),
        ((("1s", "1s"), ("1s", "7s")), "models: [{id: m, first_byte_timeout: 9s}]", 9),
    ],
)
def test_silence(
    load: Load, clocks: tuple[tuple[str, str], ...], more: str, seconds: float | None
) -> None:
    """The most patient backend's; the prefill may come behind the head."""
    backends = ", ".join(
        f"{{name: b{number}, url: 'demo:', stall_timeout: {stall}, first_byte_timeout: {first}}}"
        for number, (stall, first) in enumerate(clocks)
    )
    assert longest_silence_s(load(f"{START}backends: [{backends}]\n{more}\n")) == seconds


def test_the_gateway_gives_up_first(load: Load) -> None:
    """OpenCode waits a little longer; the rest is as the file says."""
    config = load(ONE + "opencode: {default_model: m, small_model: s}")
    provider = provider_of(config, "https://gw.example/")
    assert (provider.head_wait_s, provider.silence_s) == (140, 150)
    assert (provider.url, provider.key_header) == ("https://gw.example", "X-Team-Key")
    assert (provider.default_model, provider.small_model) == ("m", "s")


def test_no_bound_stays_none(load: Load) -> None:
    """There is nothing to add to it."""
    config = load(ONE.replace("100s", "0, stall_timeout: 0"))
    provider = provider_of(config, "https://gw.example")
    assert (provider.head_wait_s, provider.silence_s) == (None, None)
