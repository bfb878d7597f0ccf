"""What all tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.services import MariaServer, PostgresServer, RedisServer

# The machines are small and noisy: how long one example takes says nothing.
settings.register_profile("llmproxy", deadline=None)
settings.load_profile("llmproxy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of the whole: with the longest at the end, processes would be idle."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis that all tests share; who stops it starts it again."""
    if reason := RedisServer.missing():
        pytest.skip(reason)
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Give a PostgreSQL that all tests share; who stops it starts it again."""
    if reason := PostgresServer.missing():
        pytest.skip(reason)
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def maria_server() -> Iterator[MariaServer]:
    """Give a MariaDB that all tests share; who stops it starts it again."""
    if reason := MariaServer.missing():
        pytest.skip(reason)
    with MariaServer() as server:
        yield server
