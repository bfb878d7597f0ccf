"""What the tests of commands share: a stand-in for the admin API, and the command itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmproxy.cli import main
from tests.commands.admin_server import TOKEN, FakeAdmin, serving


class Operator:
    """Somebody who runs ``llmproxy`` commands against an admin API.

    Attributes:
        fake: What is behind the API.
        config: The configuration file that the commands read.
    """

    def __init__(self, fake: FakeAdmin, config: Path) -> None:
        self.fake = fake
        self.config = config

    def run(self, *words: str, stdin: str = "", columns: int = 0) -> Result:
        """Run a command, whatever comes of it."""
        environ = {
            "LLMPROXY_CONFIG": str(self.config),
            "LLMPROXY_ADMIN_TOKEN": None,
            "COLUMNS": str(columns) if columns else None,
        }
        return CliRunner().invoke(main, words, input=stdin, env=environ)

    def does(self, *words: str, **how: Any) -> str:
        """Run a command that must succeed and say nothing on standard error; give its output."""
        result = self.run(*words, **how)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    def gives(self, *words: str, **how: Any) -> Any:
        """Run a command with ``--json`` that must succeed; give what it printed."""
        return json.loads(self.does(*words, "--json", **how))

    def fails(self, status: int, *words: str, **how: Any) -> str:
        """Run a command that must end with a status and print nothing; give its words."""
        result = self.run(*words, **how)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        return result.stderr

    def asked(self, path: str) -> list[Any]:
        """Give the bodies of the requests to a path."""
        return [body for asked, body in self.fake.asked if asked == f"/admin/{path}"]


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """Serve an admin API without keys, and a configuration file that leads to it."""
    fake = FakeAdmin()
    with serving(fake) as port:
        config = tmp_path / "llmproxy.yaml"
        config.write_text(
            f'admin: {{enabled: true, token: "{TOKEN}", listen: "127.0.0.1:{port}"}}\n'
        )
        yield Operator(fake, config)
