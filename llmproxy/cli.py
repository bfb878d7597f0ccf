"""The operator's tool: ``llmproxy check-config FILE``, ``llmproxy --version``.

Commands only talk: they parse arguments, call the rooms below and print. What nobody expected shows
its traceback.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from llmproxy import __version__
from llmproxy.config.keys import static_keys
from llmproxy.config.load import load_config
from llmproxy.config.model import Config
from llmproxy.errors import ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmproxy")
def main() -> None:
    """LLMProxy: a gateway between AI coding assistants and inference servers.

    The daemon itself is started with: twistd -n llmproxy --config FILE
    """


@main.command("check-config")
@click.argument("file")
def check_config(file: str) -> None:
    """Check a configuration FILE and tell every problem in it.

    Reads the environment and the files that FILE refers to, and connects to nothing. Exits with 0
    when the daemon would accept it, else with 1.
    """
    try:
        config = load_config(file, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        count = len(error.problems)
        click.echo(f"{count} problem{'' if count == 1 else 's'}", err=True)
        raise SystemExit(1) from None
    click.echo(f"{file}: ok")
    for line in summary(config):
        click.echo(f"  {line}")


def summary(config: Config) -> Iterator[str]:
    """Say in a few lines what a configuration does; no line shows a secret."""
    tls = " with TLS" if config.server.tls.enabled else ""
    yield f"listens on {', '.join(config.server.listen)}{tls}"
    for backend in config.backends:
        models = ", ".join(backend.models) or "by its own list"
        yield f"backend {backend.name}: {backend.url} (models: {models})"
    models = ", ".join(model.id for model in config.models)
    yield f"models: {models or 'as the backends list them'}"
    if config.auth.enabled:
        count = sum(1 for _ in static_keys(config))
        yield f"authentication: {count} key{'' if count == 1 else 's'}"
    else:
        yield "authentication: off, everybody may use it"
