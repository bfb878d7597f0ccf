"""Starts daemons for these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, free_port, gateway_config
from tests.scripted_backend import Script, ScriptedBackend

Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a daemon over backends, given as scripts or as their settings."""
    with ExitStack() as stack:

        def run(*backends: Script | ScriptedBackend | dict[str, Any], **sections: Any) -> Daemon:
            settings = []
            for number, backend in enumerate(backends):
                if not isinstance(backend, dict):
                    if not isinstance(backend, ScriptedBackend):
                        backend = stack.enter_context(ScriptedBackend(backend))
                    backend = {"name": f"b{number}", "url": backend.url}
                settings.append(backend)
            config = gateway_config(free_port(), settings)
            for name, value in sections.items():
                config[name] = (
                    {**config.get(name, {}), **value} if isinstance(value, dict) else value
                )
            return stack.enter_context(Daemon(tmp_path, config))

        yield run
