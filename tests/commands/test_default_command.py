"""Tests of `llmproxy.commands.default_command`."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from llmproxy.commands.default_command import WithDefault


@click.group(cls=WithDefault, default="first", context_settings={"help_option_names": ["-h"]})
def group() -> None:
    """Two commands."""


@group.command()
@click.option("--name", default="nobody")
def first(name: str) -> None:
    """Say one thing."""
    click.echo(f"first {name}")


@group.command()
def second() -> None:
    """Say another."""
    click.echo("second")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "first nobody\n"),
        (["--name", "x"], "first x\n"),
        (["first", "--name", "x"], "first x\n"),
        (["second"], "second\n"),
    ],
)
def test_what_is_meant(words: list[str], said: str) -> None:
    """The default, when no command is named."""
    assert CliRunner().invoke(group, words).stdout == said


def test_help_and_mistakes() -> None:
    """Help is of the group, and a command that is not there is none."""
    assert "second" in CliRunner().invoke(group, ["-h"]).stdout
    assert CliRunner().invoke(group, ["third"]).exit_code == 2
