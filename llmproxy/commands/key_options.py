"""The options that describe a key, and the API's fields that are made of them.

It knows how people write budgets, dates and limits; what they mean is the API's business.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, get_args

import click

from llmproxy.commands.amounts import WANTED_AMOUNT, parse_amount
from llmproxy.commands.moments import WANTED_MOMENT, parse_moment
from llmproxy.commands.text_files import read_text
from llmproxy.config.keys import SUBJECT_PREFIX
from llmproxy.entitlements import QuotaPeriod
from llmproxy.wire.admin_keys import RatesShown

LIMITS: Final = RatesShown.__struct_fields__
"""The fields of a key's ``rate_limit``."""

PERIODS: Final = get_args(QuotaPeriod)

_PLAIN = ("name", "user_id", "total_quota", "quota_reset_period", "starts_at", "expires_at")
_LISTS = ("allowed_models", "allowed_ips", "denied_ips")

AS_EVERY_KEY: Final = "default"
NO_LIMIT: Final = "none"


class Amount(click.ParamType[int]):
    """A number of tokens or requests: ``20M``."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        try:
            return parse_amount(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class OwnLimit(click.ParamType[str | int]):
    """A limit of a key's own: an amount, ``none``, or ``default``, that of every key."""

    name = "limit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int:
        """Read it; 0 is no limit."""
        if isinstance(value, int) or value == AS_EVERY_KEY:
            return value
        if value == NO_LIMIT:
            return 0
        try:
            return parse_amount(value)
        except ValueError:
            self.fail(
                f"{value!r}: want {WANTED_AMOUNT}, or {NO_LIMIT}, or {AS_EVERY_KEY}", param, ctx
            )


class Moment(click.ParamType[str]):
    """A date, a time, or a span from now: ``90d``."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it as RFC 3339."""
        try:
            return parse_moment(value, time.time())
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Label(click.ParamType[tuple[str, str]]):
    """One of the metadata: ``team=core``."""

    name = "label"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Read its name and its value."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not name or not equals:
            self.fail(f"{value!r}: want NAME=VALUE", param, ctx)
        return name, text


_MOMENT_HELP = f"{WANTED_MOMENT[0].upper()}{WANTED_MOMENT[1:]}; UTC."

_OPTIONS = (
    click.option("--name", help="What to call it."),
    click.option("--user", "user_id", metavar="USER", help="Whose it is."),
    click.option(
        "--quota", "total_quota", type=Amount(), metavar="N", help="Tokens in a period: 20M, 500k."
    ),
    click.option(
        "--reset",
        "quota_reset_period",
        type=click.Choice(PERIODS),
        help="When the quota is whole again: at midnight, Monday or the first, in UTC.",
    ),
    click.option(
        "--model",
        "allowed_models",
        multiple=True,
        metavar="GLOB",
        help="A model that it may use; may be given again. Default: all.",
    ),
    click.option(
        "--allow-ip",
        "allowed_ips",
        multiple=True,
        metavar="CIDR",
        help="A network that it may be used from; may be given again. Default: all.",
    ),
    click.option(
        "--deny-ip",
        "denied_ips",
        multiple=True,
        metavar="CIDR",
        help="A network that it may not be used from; may be given again.",
    ),
    click.option("--starts", "starts_at", type=Moment(), metavar="WHEN", help="Refused before it."),
    click.option("--expires", "expires_at", type=Moment(), metavar="WHEN", help=_MOMENT_HELP),
    click.option("--requests-per-second", type=OwnLimit(), metavar="N", help="See --burst."),
    click.option("--requests-per-minute", type=OwnLimit(), metavar="N", help="See --burst."),
    click.option("--tokens-per-minute", type=OwnLimit(), metavar="N", help="Prompts and answers."),
    click.option("--max-concurrent", type=OwnLimit(), metavar="N", help="Requests at once."),
    click.option(
        "--burst",
        "burst_size",
        type=OwnLimit(),
        metavar="N",
        help="Requests that may come at once before the rates hold. Each of these limits may also "
        f'be "{NO_LIMIT}", or "{AS_EVERY_KEY}": that of every key.',
    ),
    click.option(
        "--metadata",
        type=Label(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Whatever else is to be known of it; may be given again.",
    ),
)


def key_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that describe a key; `fields_of` takes them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def fields_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Make the API's fields of the options that were given, but for the metadata.

    Args:
        options: What `key_options` gave.
    """
    fields: dict[str, Any] = {}
    for name in _PLAIN:
        if options[name] is not None:
            fields[name] = options[name]
    for name in _LISTS:
        if options[name]:
            fields[name] = list(options[name])
    given = {name: options[name] for name in LIMITS if options[name] is not None}
    if given:
        fields["rate_limit"] = {
            name: None if value == AS_EVERY_KEY else value for name, value in given.items()
        }
    return fields


def labelled(before: Mapping[str, Any], labels: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Put labels into metadata; one with an empty value is taken out."""
    new = dict(labels)
    return {name: value for name, value in {**before, **new}.items() if new.get(name) != ""}


def read_key(file: str) -> str:
    """Read a key from a file, or from standard input for ``-``; a terminal does not show it.

    Raises:
        click.UsageError: It cannot be read, or holds not exactly one line; shows nothing of it.
    """
    if file == "-" and sys.stdin.isatty():
        text: str = click.prompt("Key", hide_input=True, err=True)
    else:
        text = read_text(file, called="--key-file")
    key = text.strip()
    words = key.splitlines() if key.startswith(SUBJECT_PREFIX) else key.split()
    if len(words) != 1:
        raise click.UsageError("--key-file holds not exactly one key; want it on one line")
    return key
