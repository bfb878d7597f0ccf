"""How keys are shown to people: one in full, many as a table. Never the key itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmproxy.commands.amounts import percent, short_amount
from llmproxy.commands.key_options import LIMITS
from llmproxy.commands.moments import shown_day, shown_moment
from llmproxy.commands.table import Column, cells, printable, render
from llmproxy.wire.admin_keys import Key, RatesShown

COLUMNS = (
    Column(title="ID", least_cells=12),
    Column(title="KEY", spare=3),
    Column(title="NAME", least_cells=8),
    Column(title="USER", least_cells=8),
    Column(title="STATUS"),
    Column(title="USED/QUOTA", right=True),
    Column(title="%", right=True),
    Column(title="RESETS", spare=2),
    Column(title="EXPIRES", spare=1),
)

_LIMIT_WORDS = {
    "requests_per_second": "requests per second",
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "max_concurrent": "at once",
    "burst_size": "burst",
}


def keys_table(keys: Sequence[Key], width_cells: int) -> list[str]:
    """Show keys as a table; see `render`."""
    return render(COLUMNS, [_row(key) for key in keys], width_cells=width_cells)


def _row(key: Key) -> tuple[str, ...]:
    total, used = key.total_quota, key.used_quota
    return (
        key.id,
        key.key,
        key.name,
        key.user_id,
        key.status_text,
        "" if total is None else f"{short_amount(used)}/{short_amount(total)}",
        "" if total is None else percent(used, total),
        shown_day(key.quota_resets_at),
        shown_day(key.expires_at),
    )


def key_lines(key: Key) -> list[str]:
    """Show all that is known of a key, a line for each."""
    facts = [(word, printable(text)) for word, text in _facts(key)]
    width = max(cells(word) for word, _ in facts)
    return [f"{word:<{width}}  {text}" for word, text in facts]


def _facts(key: Key) -> Iterator[tuple[str, str]]:
    yield "id", key.id
    yield "key", key.key
    yield "name", key.name or "-"
    yield "user", key.user_id or "-"
    yield "status", key.status_text
    yield "quota", quota_words(key)
    if key.starts_at is not None:
        yield "starts", shown_moment(key.starts_at)
    yield "expires", "never" if key.expires_at is None else shown_moment(key.expires_at)
    yield "models", ", ".join(key.allowed_models) or "all"
    yield "from", ", ".join(key.allowed_ips) or "everywhere"
    if key.denied_ips:
        yield "not from", ", ".join(key.denied_ips)
    yield "limits", limit_words(key.rate_limit)
    for name, value in key.metadata.items():
        yield "metadata", f"{name}={value}"
    yield "created", shown_moment(key.created_at)
    yield "changed", shown_moment(key.updated_at)


def quota_words(key: Key) -> str:
    """Say how a key's budget stands, exactly."""
    total, used = key.total_quota, key.used_quota
    if total is None:
        return "none"
    words = f"{used:,} of {total:,} tokens used ({percent(used, total)})"
    if key.quota_reset_period != "never":
        words += f", {key.quota_reset_period}"
    if key.quota_resets_at is not None:
        words += f", whole again {shown_moment(key.quota_resets_at)}"
    return words


def limit_words(limits: RatesShown) -> str:
    """Say which limits a key has of its own."""
    own = [
        f"{_LIMIT_WORDS[name]}: {f'{value:,}' if value else 'no limit'}"
        for name in LIMITS
        if (value := getattr(limits, name)) is not None
    ]
    return ", ".join(own) or "as for every key"
