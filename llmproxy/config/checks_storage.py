"""What no single value of ``storage`` shows: that each database and cache can be reached as given.

No message shows a password or a connection string. It connects to nothing.
"""

from __future__ import annotations

import attrs

from llmproxy.config.addresses import (
    HIGHEST_PORT,
    check_mysql_dsn,
    check_postgres_dsn,
    parse_host_port,
    shown_url,
)
from llmproxy.config.findings import Findings, KeyPath, quoted
from llmproxy.config.model import Config
from llmproxy.config.model_stores import Database
from llmproxy.config.names import check_names

_SERVER_KEYS = ("host", "port", "user", "password", "password_file", "database")
"""What says where a server is when there is no ``dsn``."""


def check_storage(config: Config, findings: Findings) -> None:
    """Check databases and caches.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    at: KeyPath = ("storage", "databases")
    databases = config.storage.databases
    check_names(findings, [((*at, i, "name"), one.name) for i, one in enumerate(databases)])
    for index, database in enumerate(databases):
        if database.driver == "sqlite":
            _check_file(database, (*at, index), findings)
        else:
            _check_server(database, (*at, index), findings)
    at = ("storage", "caches")
    caches = config.storage.caches
    check_names(findings, [((*at, i, "name"), one.name) for i, one in enumerate(caches)])
    for index, cache in enumerate(caches):
        try:
            parse_host_port(cache.addr)
        except ValueError as error:
            findings.check((*at, index, "addr"), f"{quoted(shown_url(cache.addr))} {error}")


def _given(database: Database, names: tuple[str, ...]) -> list[str]:
    """List those keys of a database that are not left at their defaults."""
    fields = attrs.fields_dict(Database)
    return [name for name in names if getattr(database, name) != fields[name].default]


def _check_file(database: Database, path: KeyPath, findings: Findings) -> None:
    driver: KeyPath = (*path, "driver")
    if not database.path:
        findings.check(
            path, "has no path; want the file of the database", needs=((*path, "path"), driver)
        )
    for name in _given(database, ("dsn", "dsn_file", *_SERVER_KEYS)):
        if name in ("dsn", "password") and getattr(database, f"{name}_file"):
            continue  # it came from that file, which is told
        findings.check(
            (*path, name),
            "is given, but the driver is sqlite; want it removed, or another driver",
            needs=(driver,),
        )


def _check_server(database: Database, path: KeyPath, findings: Findings) -> None:
    driver: KeyPath = (*path, "driver")
    if database.path:
        findings.check(
            (*path, "path"),
            f"is given, but the driver is {database.driver}; want it removed, or driver: sqlite",
            needs=(driver,),
        )
    if database.port > HIGHEST_PORT:
        findings.check(
            (*path, "port"), f"{database.port} is no port; want one of 1 to {HIGHEST_PORT}"
        )
    dsn: KeyPath = (*path, "dsn_file" if database.dsn_file else "dsn")
    if database.dsn or database.dsn_file:
        others = _given(database, _SERVER_KEYS)
        if others:
            findings.check(
                dsn,
                f"is given, and so is {others[0]}; want one of them",
                needs=((*path, others[0]),),
            )
        _check_dsn(database, dsn, findings)
        return
    for name in ("host", "database"):
        if not getattr(database, name):
            findings.check(
                path,
                f"has no {name}; want host and database, or dsn",
                needs=((*path, "dsn"), (*path, name), driver),
            )


def _check_dsn(database: Database, path: KeyPath, findings: Findings) -> None:
    if not database.dsn:
        return  # the file that should hold it is told already
    where = "holds a value (hidden) that" if database.dsn_file else "(hidden)"
    check = check_mysql_dsn if database.driver == "mysql" else check_postgres_dsn
    try:
        check(database.dsn)
    except ValueError as error:
        findings.check(path, f"{where} {error}", needs=((*path[:-1], "driver"),))
