"""Tests of `llmproxy.config.checks_storage`."""

from __future__ import annotations

import pytest

from tests.config.conftest import Load, Problems

START = "backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false}\n"
MYSQL = "driver: mysql, dsn: 'mysql://u:s3cret@h:3306/keys'"


def databases(*items: str) -> str:
    """Write a file with these databases, from line 5 on."""
    return f"{START}storage:\n  databases:\n" + "".join(f"    - {{{item}}}\n" for item in items)


@pytest.mark.parametrize(
    "item",
    [
        "path: x.db",
        "driver: sqlite, path: /var/lib/x.db, pool_size: 1",
        "driver: postgres, database: keys",
        "driver: postgres, host: /run/postgresql, database: keys, user: u, password: s3cret",
        "driver: postgres, dsn: 'postgresql://u:s3cret@h/keys?sslmode=require'",
        "driver: postgres, dsn: 'postgres:///keys'",
        "driver: postgres, dsn: 'host=/run dbname=keys'",
        MYSQL,
        "driver: mysql, dsn: 'mysql://my_host/keys'",
        "driver: mysql, host: h, port: 3307, database: keys",
    ],
)
def test_databases_that_are_good(problems: Problems, item: str) -> None:
    """A file, a connection string, or a host and the name of a database."""
    assert not problems(databases(f"name: d, {item}"))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("driver: sqlite", ": has no path; want the file of the database"),
        (
            "path: x.db, host: h",
            ".host: is given, but the driver is sqlite; want it removed, or another driver",
        ),
        ("path: x.db, dsn: s3cret", ".dsn: is given, but the driver is sqlite"),
        ("path: x.db, dsn_file: secret", ".dsn_file: is given, but the driver is sqlite"),
        ("path: x.db, password: s3cret", ".password: is given, but the driver is sqlite"),
        ("path: x.db, port: 1", ".port: is given, but the driver is sqlite"),
        (
            "driver: mysql, database: d, path: x.db",
            ".path: is given, but the driver is mysql; want it removed, or driver: sqlite",
        ),
        ("driver: mysql", ": has no database; want host and database, or dsn"),
        ("driver: postgres, host: '', database: d", ": has no host; want host and database"),
        (
            "driver: postgres, database: d, port: 65536",
            ".port: 65536 is no port; want one of 1 to 65535",
        ),
        (f"{MYSQL}, user: u", ".dsn: is given, and so is user; want one of them"),
        (
            "driver: postgres, dsn_file: secret, database: d",
            ".dsn_file: is given, and so is database; want one of them",
        ),
        (
            "driver: mysql, dsn: 'postgres://u:s3cret@h/d'",
            '.dsn: (hidden) is not a URL of mysql; want "mysql://user:password@host:port/database"',
        ),
        ("driver: mysql, dsn: 'mysql://u:s3cret@h'", ".dsn: (hidden) names no database"),
        ("driver: mysql, dsn: 'mysql://u:s3?et@h/d'", ".dsn: (hidden) is not a URL; want"),
        ("driver: postgres, dsn: 'mysql://h/d'", ".dsn: (hidden) is not a connection string"),
        (
            "driver: mysql, dsn_file: secret",
            ".dsn_file: holds a value (hidden) that is not a URL of mysql; want ",
        ),
    ],
)
def test_databases(problems: Problems, item: str, expected: str) -> None:
    """What belongs to another driver, and what is not enough; never what is secret."""
    files = {"secret": "s3cret=x\n"}
    (told,) = problems(databases("name: first, path: y.db", f"name: d, {item}"), files=files)
    assert told.startswith(f"x.yaml:6: storage.databases[1]{expected}")
    assert "s3" not in told


def test_a_connection_string_that_cannot_be_read_is_told_once(problems: Problems) -> None:
    """Nothing is known of what the file would hold."""
    (told,) = problems(databases("name: d, driver: mysql, dsn_file: none"))
    assert 'dsn_file: "none" cannot be read' in told


def test_a_driver_that_cannot_be_read(problems: Problems) -> None:
    """What belongs to it is not known either."""
    (told,) = problems(databases("name: d, driver: oracle, host: h, database: d"))
    assert "driver" in told.split(": ")[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("databases: [{name: d, path: x}, {name: d, path: y}]", "databases[1].name: "),
        ("caches: [{name: d}, {name: d}]", 'caches[1].name: "d" is taken by storage.caches[0].n'),
        ("caches: [{name: ''}]", 'caches[0].name: "" is empty; want a name'),
        ("caches: [{name: c, addr: h}]", 'caches[0].addr: "h" is not an address; want "host:port"'),
        ("caches: [{name: c, addr: 'h:0'}]", 'caches[0].addr: "h:0" has no valid port; want one'),
        (
            "caches: [{name: c, addr: 'redis://u:s3cret@h:1'}]",
            'caches[0].addr: "redis://(hidden)@h:1" is not an address',
        ),
        ("caches: [{name: c, driver: memcached}]", 'caches[0].driver: "memcached" cannot stand'),
    ],
)
def test_names_and_caches(problems: Problems, text: str, expected: str) -> None:
    """Names are unique in each list, addresses have a port."""
    (told,) = problems(f"{START}storage: {{{text}}}\n")
    assert told.startswith(f"x.yaml:3: storage.{expected}")


def test_storage_that_is_good(load: Load) -> None:
    """A database and a cache may have the same name."""
    text = "databases: [{name: p, path: x}], caches: [{name: p, addr: '[::1]:6379'}]"
    storage = load(f"{START}storage: {{{text}}}\n").storage
    assert (storage.databases[0].name, storage.caches[0].name) == ("p", "p")
