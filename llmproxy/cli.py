"""The operator's tool: ``llmproxy check-config FILE``, ``keys``, ``opencode-config``, and others.

Commands only talk: they parse arguments, call the rooms below and print. Those that ask a running
daemon are in ``commands``. What nobody expected shows its traceback.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs
import click

from llmproxy import __version__
from llmproxy.commands.backends import backends
from llmproxy.commands.key_transfer import export, import_keys, sync
from llmproxy.commands.keys import keys
from llmproxy.commands.opencode import opencode_config
from llmproxy.commands.spool import spool
from llmproxy.commands.usage import usage
from llmproxy.commands.usage_records import records, sessions
from llmproxy.config.keys import SAMPLE_KEY, is_open_to_all, static_keys
from llmproxy.config.load import load_file
from llmproxy.config.model import Config
from llmproxy.config.model_stores import RateLimit
from llmproxy.config.model_usage import Usage
from llmproxy.errors import ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmproxy")
def main() -> None:
    """LLMProxy: a gateway between AI coding assistants and inference servers.

    The daemon itself is started with: twistd -n llmproxy --config FILE
    """


main.add_command(keys)
for transfer in (export, import_keys, sync):
    keys.add_command(transfer)
main.add_command(usage)
for single in (records, sessions):
    usage.add_command(single)
main.add_command(spool)
main.add_command(backends)
main.add_command(opencode_config)


@main.command("check-config")
@click.argument("file")
def check_config(file: str) -> None:
    """Check a configuration FILE and tell every problem in it.

    Reads the environment and the files that FILE refers to, and connects to nothing. Exits with 0
    when the daemon would accept it, else with 1.
    """
    try:
        loaded = load_file(file, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        count = len(error.problems)
        click.echo(f"{count} problem{'' if count == 1 else 's'}", err=True)
        raise SystemExit(1) from None
    click.echo(f"{file}: ok")
    for line in summary(loaded.config):
        click.echo(f"  {line}")
    click.echo(f"  digest: {loaded.digest}")


def summary(config: Config) -> Iterator[str]:
    """Say in a few lines what a configuration does; no line shows a secret."""
    tls = " with TLS" if config.server.tls.enabled else ""
    yield f"listens on {', '.join(config.server.listen)}{tls}"
    if is_open_to_all(config):
        yield f"beware: the key {SAMPLE_KEY}, which everybody knows, opens it to other machines"
    for backend in config.backends:
        models = ", ".join(backend.models) or "by its own list"
        yield f"backend {backend.name}: {backend.url} (models: {models})"
    models = ", ".join(model.id for model in config.models)
    yield f"models: {models or 'as the backends list them'}"
    yield f"authentication: {_sources(config)}"
    yield from _limits(config.rate_limit)
    yield f"usage: {_reporters(config.usage)}"
    admin = config.admin
    yield f"admin API: {f'listens on {admin.listen}' if admin.enabled else 'off'}"
    if config.opencode.enabled:
        yield f"OpenCode: users type: opencode auth login {config.opencode.url}"


def _sources(config: Config) -> str:
    """Name where keys are known, in the order in which they are asked."""
    if not config.auth.enabled:
        return "off, everybody may use it"
    count = sum(1 for _ in static_keys(config))
    static = f"static: {count} key{'' if count == 1 else 's'}"
    others = [one for one in config.auth.pipeline if one.type != "static"]
    sources = [*([static] if count else []), *(f"{one.name} ({one.type})" for one in others)]
    all_of = "all of " if config.auth.mode == "all" and len(sources) > 1 else ""
    return all_of + ", ".join(sources)


def _reporters(settings: Usage) -> str:
    """Name who gets the records of usage."""
    names = ", ".join(f"{one.name} ({one.type})" for one in settings.reporters)
    return names if settings.enabled and names else "counted, and kept by nobody"


def _limits(settings: RateLimit) -> Iterator[str]:
    """Say which limits are set, one line for each scope that has some."""
    place = f"in redis {settings.redis}" if settings.storage == "redis" else "in memory"
    if not settings.enabled:
        yield f"limits: off (quotas are counted {place})"
        return
    scopes = {"of all requests": settings.global_, "of each key": settings.per_key}
    scopes |= {f"of {model}": limits for model, limits in settings.per_model.items()}
    texts = {
        scope: ", ".join(f"{name} {value}" for name, value in attrs.asdict(limits).items() if value)
        for scope, limits in scopes.items()
    }
    if not any(texts.values()):
        yield f"limits: none but those of keys (counted {place})"
        return
    for scope, text in texts.items():
        if text:
            yield f"limits {scope} (counted {place}): {text}"
