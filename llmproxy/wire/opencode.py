"""What OpenCode reads: its configuration, and ``/.well-known/opencode``.

The shapes are those of https://opencode.ai/config.json, as OpenCode 1.18 accepts them. It knows
nothing of requests; nothing that it gives depends on one, but for the models that a key may use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from llmproxy.values import ModelCard

PROVIDER: Final = "llmproxy"
"""What OpenCode calls the gateway: the first part of its names of models."""

KEY_VARIABLE: Final = "LLMPROXY_API_KEY"
"""The environment variable with the key; a key given by ``opencode auth login`` has its name."""

WELL_KNOWN_PATH: Final = "/.well-known/opencode"
MODELS_PATH: Final = "/.well-known/opencode/config"
"""Where the part of the configuration is that depends on the key."""

LARGEST_GUESS: Final = 8192
"""Tokens of an answer where only the context window is known; never over a quarter of that."""

LOGIN_COMMAND: Final = (
    "sh",
    "-c",
    "exec 3<>/dev/tty || exit 1; "
    "echo=$(stty -g <&3 2>/dev/null); "
    """trap 'stty "$echo" <&3 2>/dev/null' EXIT; trap 'exit 130' HUP INT TERM; """
    "stty -echo <&3 2>/dev/null; "
    "printf 'API key of LLMProxy: ' >&3; read -r key <&3; echo >&3; "
    """[ -n "$key" ] && printf '%s' "$key\"""",
)
"""Reads a key from the terminal, without showing it, and prints it.

OpenCode gives it no standard input. It is the same for everybody, for it is run on their machines.
"""


@attrs.frozen(kw_only=True)
class OpenCodeProvider:
    """The gateway as a provider of models to OpenCode.

    Attributes:
        url: Where clients find it; no slash at the end.
        key_header: The header field that it takes keys in.
        head_wait_s: How long the head of an answer may take; None: for ever.
        silence_s: How long a stream may be silent; None: for ever.
        default_model: The model that is asked; empty: the first.
        small_model: The model that writes titles; empty: the default.
    """

    url: str
    key_header: str
    head_wait_s: float | None
    silence_s: float | None
    default_model: str = ""
    small_model: str = ""

    def config(self, cards: Sequence[ModelCard]) -> dict[str, Any]:
        """Give an ``opencode.json`` with these models."""
        shown = {card.id: _model(card) for card in cards if _is_plain(card.id)}
        config = self._config({"models": shown})
        if shown:
            default = self.default_model if self.default_model in shown else next(iter(shown))
            small = self.small_model if self.small_model in shown else default
            config["model"] = f"{PROVIDER}/{default}"
            config["small_model"] = f"{PROVIDER}/{small}"
        return config

    def well_known(self) -> dict[str, Any]:
        """Give ``/.well-known/opencode``: no model is in it, for anybody may ask."""
        return {
            "auth": {"command": list(LOGIN_COMMAND), "env": KEY_VARIABLE},
            "config": self._config({}),
            "remote_config": {"url": f"{self.url}{MODELS_PATH}", "headers": self._key_field()},
        }

    def _config(self, more: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {"baseURL": f"{self.url}/v1"}
        if self.key_header.lower() == "authorization":
            options["apiKey"] = f"{{env:{KEY_VARIABLE}}}"
        else:
            options["headers"] = self._key_field()
        options["headerTimeout"] = _timeout_ms(self.head_wait_s)
        options["chunkTimeout"] = _timeout_ms(self.silence_s)
        provider = {
            "npm": "@ai-sdk/openai-compatible",  # a part of OpenCode: nothing is fetched
            "name": "LLMProxy",
            "options": options,
            **more,
        }
        return {
            "$schema": "https://opencode.ai/config.json",
            "provider": {PROVIDER: provider},
            "enabled_providers": [PROVIDER],
        }

    def _key_field(self) -> dict[str, str]:
        is_bearer = self.key_header.lower() == "authorization"
        return {self.key_header: f"{'Bearer ' if is_bearer else ''}{{env:{KEY_VARIABLE}}}"}


def answer_limit(card: ModelCard) -> int | None:
    """Give how many tokens an answer may have; None when there is nothing to tell it from."""
    if card.output is not None or card.context is None:
        return card.output
    return min(LARGEST_GUESS, max(card.context // 4, 1))


def _model(card: ModelCard) -> dict[str, Any]:
    model: dict[str, Any] = {"name": card.name if card.name and _is_plain(card.name) else card.id}
    output = answer_limit(card)
    if output is not None:
        # A window of 0 is one that OpenCode does not know: it never compacts by itself.
        model["limit"] = {"context": card.context or 0, "output": output}
    if card.images:
        model["attachment"] = True
        model["modalities"] = {"input": ["text", "image"], "output": ["text"]}
    if card.reasoning:
        model["reasoning"] = True
    return model


def _is_plain(name: str) -> bool:
    """Say whether OpenCode takes a name as it is: it replaces ``{env:NAME}`` and ``{file:PATH}``.

    Names come from inference servers, too, which are not to read files of their users.
    """
    return "{" not in name


def _timeout_ms(seconds: float | None) -> int | bool:
    return False if seconds is None else max(round(seconds * 1000), 1)
