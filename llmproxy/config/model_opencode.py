"""The configuration model: ``opencode``."""

from __future__ import annotations

import attrs

from llmproxy.config.setting import setting


@attrs.frozen(kw_only=True)
class OpenCode:
    """``opencode``: what OpenCode is told of the gateway."""

    enabled: bool = setting(
        "serve /.well-known/opencode, for opencode auth login; it has clients run a command "
        "that asks for their key",
        False,
    )
    url: str = setting("where clients find the gateway, without the /v1", "")
    default_model: str = setting("an id of models; empty: the first that a key may use", "")
    small_model: str = setting("writes the titles of sessions; empty: the default model", "")
