"""``llmproxy opencode-config``: an ``opencode.json`` for the users of a gateway."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from llmproxy.backends.models import ConfiguredModels
from llmproxy.commands.connection import echo_json
from llmproxy.commands.failures import Refused
from llmproxy.commands.model_list import ask_models
from llmproxy.commands.target import configured_file
from llmproxy.config.addresses import check_gateway_url, parse_listen
from llmproxy.config.load import load_config
from llmproxy.config.model import Config
from llmproxy.config.opencode import provider_of
from llmproxy.errors import ConfigError
from llmproxy.values import ModelCard
from llmproxy.wire.opencode import KEY_VARIABLE, answer_limit


@click.command("opencode-config")
@click.option(
    "--config",
    "config_file",
    default="",
    metavar="FILE",
    help="The daemon's configuration. Default: $LLMPROXY_CONFIG, "
    "/etc/llmproxy/llmproxy.yaml, or etc/llmproxy.yaml.",
)
@click.option(
    "--model",
    "wanted",
    multiple=True,
    metavar="ID",
    help="Only this model; may be given again. The first is the default model.",
)
@click.option(
    "--url",
    default="",
    metavar="URL",
    help="Where clients find the gateway, without the /v1. Default: opencode.url, or the address "
    "that the daemon listens on.",
)
def opencode_config(config_file: str, wanted: Sequence[str], url: str) -> None:
    """Print an opencode.json for the users of this gateway.

    The models are those of the configuration. When it names none, the running gateway is asked for
    those of the key in $LLMPROXY_API_KEY.
    """
    file = configured_file(config_file, os.environ)
    try:
        config = load_config(file, os.environ)
    except ConfigError as error:
        raise click.UsageError("\n".join(map(str, error.problems))) from None
    if url:
        try:
            check_gateway_url(url)
        except ValueError as error:
            raise click.UsageError(f"--url {error}") from None
    provider = provider_of(config, url or config.opencode.url or _listens_at(config, file))
    if config.models:
        found = [card for card, _ in ConfiguredModels(config.models, 0).cards()]
    else:
        found = ask_models(provider.url, provider.key_header, os.environ.get(KEY_VARIABLE, ""))
    cards = _chosen(found, wanted)
    for card in cards:
        if answer_limit(card) is None:
            click.echo(
                f"{card.id}: its context window is not known, so OpenCode asks for answers of "
                "32000 tokens and does not compact long conversations; set context and output in "
                "models of the configuration",
                err=True,
            )
    echo_json(provider.config(cards))


def _chosen(cards: Sequence[ModelCard], wanted: Sequence[str]) -> Sequence[ModelCard]:
    """Give the wanted models in the order in which they are wanted; all when none is named."""
    known = {card.id: card for card in cards}
    missing = [name for name in wanted if name not in known]
    if missing or not known:
        there = f"there are: {', '.join(known)}" if known else "there is none"
        raise Refused(f"no model {', '.join(missing)}; {there}" if missing else "there is no model")
    return [known[name] for name in wanted] or cards


def _listens_at(config: Config, file: str) -> str:
    """Give the first address that the daemon listens on, if clients can be sent there."""
    scheme = "https" if config.server.tls.enabled else "http"
    for listen in config.server.listen:
        address = parse_listen(listen)
        if address is not None and address[1] and address[0] not in ("", "0.0.0.0", "::"):
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            return f"{scheme}://{host}:{address[1]}"
    raise click.UsageError(
        f"{file} does not say where clients find the gateway: it listens on "
        f"{', '.join(config.server.listen)}; want --url URL, or opencode.url in the file"
    )
