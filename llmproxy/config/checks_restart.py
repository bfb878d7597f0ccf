"""What a running daemon cannot take over from a changed file: these few keys want a restart.

No message shows a secret. It knows nothing of how the rest is taken over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from llmproxy.config.checks_admin import needs_db
from llmproxy.config.findings import Findings, KeyPath
from llmproxy.config.model import Config
from llmproxy.config.model_stores import Cache, Database

FIXED: Final[tuple[KeyPath, ...]] = (
    ("server", "workers"),
    ("rate_limit", "storage"),
    ("rate_limit", "redis"),
    ("usage",),
    ("metrics",),
)
"""Processes, and what counts or keeps something, are made once."""


def check_restart(in_force: Config, config: Config, findings: Findings) -> None:
    """Check that a configuration can follow another one in the same process.

    Args:
        in_force: The one that the daemon runs under.
        config: The one that is to follow.
        findings: Takes the problems.
    """
    for path in _changed(in_force, config):
        findings.check(
            path, "differs from what the daemon runs with; want it as it was, or a restart"
        )


def _changed(in_force: Config, config: Config) -> Iterator[KeyPath]:
    for path in FIXED:
        if _value(in_force, path) != _value(config, path):
            yield path
    if config.server.workers != 1 and in_force.server.listen != config.server.listen:
        yield ("server", "listen")  # the workers were handed their sockets
    if config.rate_limit.storage == "redis":
        before, after = in_force.storage.caches, config.storage.caches
        for position in _differing(before, after, {config.rate_limit.redis}):
            yield ("storage", "caches", position)
    if config.usage.enabled:
        reporters = config.usage.reporters
        filled = {one.database.storage for one in reporters if one.type == "database"}
        for position in _differing(in_force.storage.databases, config.storage.databases, filled):
            yield ("storage", "databases", position)
    if not needs_db(config):
        return
    if not needs_db(in_force) or in_force.admin.db_path != config.admin.db_path:
        yield ("admin", "db_path")
    if in_force.admin.key_secret != config.admin.key_secret:
        yield ("admin", "key_secret_file" if config.admin.key_secret_file else "key_secret")


def _differing(
    before: Sequence[Cache | Database], after: Sequence[Cache | Database], names: Collection[str]
) -> Iterator[int]:
    """Give the positions of the stores of these names that were others before."""
    by_name = {one.name: one for one in before}
    for position, one in enumerate(after):
        if one.name in names and by_name.get(one.name, one) != one:
            yield position


def _value(config: Config, path: KeyPath) -> Any:
    value: Any = config
    for step in path:
        value = getattr(value, str(step))
    return value
