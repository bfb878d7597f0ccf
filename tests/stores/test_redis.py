"""Tests of `llmproxy.stores.redis`, against a real Redis server."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, gatherResults
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider
from zope.interface.verify import verifyObject

from llmproxy.config.model_stores import Cache
from llmproxy.config.setting import Duration, Secret
from llmproxy.errors import RedisReplyError, StoreUnavailable
from llmproxy.interfaces import IRedis
from llmproxy.stores.redis import FIRST_DELAY_S, PROVEN_S, RedisConnections
from tests.services import RedisServer
from tests.stores.reactor_case import ReactorTestCase, reactor
from tests.stores.silent_server import SilentServer

PASSWORD = "canary-pass'word \r\n%s"
ODD_VALUES = [
    b"",
    b"\x00",
    b"a\x00b",
    b"$3\r\nfoo\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"007",
    b"1.50",
    b"-1",
    b"\xff\xfe",
    "schlüssel \N{SNOWMAN}".encode(),
    b"{0} %s {}",
    bytes(range(256)) * 4096,
]


class RedisTestCase(ReactorTestCase):
    """Makes connections that must be gone in the end."""

    redis_server: RedisServer

    @pytest.fixture(autouse=True)
    def use_redis(self, redis_server: RedisServer) -> None:
        """Give the test the server that all share, empty."""
        redis_server.flush()
        self.redis_server = redis_server

    def setUp(self) -> None:
        """Listen to what is logged."""
        self.logged: list[str] = []

        @provider(ILogObserver)
        def note(event: LogEvent) -> None:
            self.logged.append(formatEvent(event))

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)

    def connections(self, addr: str = "", **settings: Any) -> RedisConnections:
        """Start connections to a server; the shared one, if there is no address."""
        settings.setdefault("timeout", Duration(1.0))
        redis = RedisConnections(
            Cache(name="primary", addr=addr or self.redis_server.addr, **settings), reactor
        )
        redis.startService()
        self.addCleanup(lambda: redis.stopService() if redis.running else None)
        return redis

    async def up(self, addr: str = "", **settings: Any) -> RedisConnections:
        """Start connections and wait until they are all there."""
        redis = self.connections(addr, **settings)
        size = settings.get("pool_size", 2)
        await self.until(lambda: f"{size} of {size}" in repr(redis), "the connections")
        return redis

    def server(self, **options: Any) -> RedisServer:
        """Start a server for this test alone, which may be stopped."""
        server = RedisServer(**options)
        self.addCleanup(server.close)
        server.start()
        return server

    def told(self) -> list[str]:
        """Give what was logged of Redis."""
        return [line for line in self.logged if line.startswith("redis ")]


class BeginningTests(RedisTestCase):
    """What is asked before it is known whether there is a server."""

    async def test_asked_at_once(self) -> None:
        """It waits for the first connection."""
        redis = self.connections()
        assert await gatherResults([redis.call("PING"), redis.call("ECHO", "x")]) == [b"PONG", b"x"]

    async def test_asked_at_once_in_vain(self) -> None:
        """It fails when the first attempt has; later ones fail at once."""
        with SilentServer() as server:
            redis = self.connections(f"127.0.0.1:{server.port}", timeout=Duration(0.2))
            asked = [redis.call("PING") for _ in range(3)]
            asked[1].cancel()
            for one, reason in zip(asked, (StoreUnavailable, CancelledError) * 2, strict=False):
                with pytest.raises(reason):
                    await one
            with pytest.raises(StoreUnavailable):
                await redis.call("PING")

    async def test_stopped_meanwhile(self) -> None:
        """Nobody is left waiting."""
        with SilentServer() as server:
            redis = self.connections(f"127.0.0.1:{server.port}", timeout=Duration(5.0))
            asked = redis.call("PING")
            stopped = redis.stopService()
            with pytest.raises(StoreUnavailable):
                await asked
            await stopped


class CommandTests(RedisTestCase):
    """Commands and their replies."""

    async def test_replies_are_bytes_and_numbers(self) -> None:
        """Nothing stored is taken for a number; a status is bytes as well."""
        redis = await self.up()
        assert verifyObject(IRedis, redis)
        assert await redis.call("SET", "a", "12") == b"OK"
        assert await redis.call(b"GET", b"a") == b"12"
        assert await redis.call("INCRBY", "a", -3) == 9
        assert await redis.call("GET", "none") is None
        await redis.call("HSET", "h", "x", "1.5", "y", "")
        assert await redis.call("HGETALL", "h") == [b"x", b"1.5", b"y", b""]
        assert await redis.call("HGETALL", "none") == []
        assert await redis.call("MGET", "a", "none", "a") == [b"9", None, b"9"]

    async def test_any_bytes_go_there_and_back(self) -> None:
        """Keys and values may hold anything, a mebibyte and the protocol's own marks as well."""
        redis = await self.up()
        for value in ODD_VALUES:
            await redis.call("SET", b"k" + value, value)
            assert await redis.call("GET", b"k" + value) == value
            assert await redis.call("MGET", b"k" + value, b"") == [value, None]
        assert await redis.call("DBSIZE") == len(ODD_VALUES)

    async def test_any_text_can_be_asked_for(self) -> None:
        """Lone surrogates and other oddities of Python's strings do not raise."""
        redis = await self.up()
        for text in ("\udcff", "{0}", "\0", "日本"):
            await redis.call("SET", text, text)
            assert await redis.call("GET", text) == text.encode("utf-8", "surrogatepass")

    async def test_errors_of_a_command(self) -> None:
        """An error reply is an error of that command; the connection goes on."""
        redis = await self.up(pool_size=1)
        await redis.call("SET", "text", "x")
        failed = await self.assertFailure(redis.call("LPUSH", "text", "y"), RedisReplyError)
        assert str(failed).startswith("WRONGTYPE")
        failed = await self.assertFailure(redis.call("NOSUCH", "sk-canary"), RedisReplyError)
        assert "sk-canary" not in str(failed)
        await self.assertFailure(redis.call(b"N\xff\xfe", b"x"), RedisReplyError)
        assert await redis.call("GET", "text") == b"x"

    async def test_many_at_once(self) -> None:
        """Each of many commands under way gets its own reply."""
        redis = await self.up()
        numbers = range(500)
        replies = await gatherResults([redis.call("ECHO", number) for number in numbers])
        assert replies == [b"%d" % number for number in numbers]

    async def test_a_cancelled_command_leaves_the_others_alone(self) -> None:
        """Its reply is read and dropped."""
        redis = await self.up(pool_size=1)
        first, second, third = (redis.call("ECHO", word) for word in "abc")
        second.addErrback(lambda failure: None)
        second.cancel()
        assert (await first, await third) == (b"a", b"c")
        assert await redis.call("ECHO", "d") == b"d"

    async def test_the_database_is_the_one_configured(self) -> None:
        """What is written to one is not in the other."""
        other = await self.up(db=3)
        await other.call("SET", "a", "1")
        assert await (await self.up()).call("GET", "a") is None
        assert await (await self.up(db=3)).call("GET", "a") == b"1"


class ScriptTests(RedisTestCase):
    """Lua scripts."""

    SCRIPT = "return {KEYS[1], ARGV[1], tonumber(ARGV[2]) * 2}"

    async def test_a_script_is_sent_once(self) -> None:
        """From then on it is named, and its arguments are any bytes."""
        redis = await self.up()
        self.redis_server.send("CONFIG", "RESETSTAT")
        for value in ODD_VALUES:
            reply = await redis.run_script(self.SCRIPT, [b"k" + value], [value, 21])
            assert reply == [b"k" + value, value, 42]
        stats = self.redis_server.send("INFO", "commandstats").decode()
        assert "cmdstat_eval:calls=1," in stats

    async def test_errors_of_a_script(self) -> None:
        """What a script raises or returns as an error is an error."""
        redis = await self.up()
        for script in (
            "return redis.call('NOSUCH')",
            "return redis.error_reply('MINE it is')",
            "return {1, redis.error_reply('MINE it is')}",
            "this is not Lua",
        ):
            await self.assertFailure(redis.run_script(script, [], []), RedisReplyError)

    async def test_a_restart_that_loses_the_scripts(self) -> None:
        """They are sent again."""
        server = self.server()
        redis = await self.up(server.addr)
        assert await redis.run_script(self.SCRIPT, ["k"], ["v", 1]) == [b"k", b"v", 2]
        await self.aside(server.restart)
        await self.until(lambda: redis.is_up)
        assert await redis.run_script(self.SCRIPT, ["k"], ["v", 2]) == [b"k", b"v", 4]
        server.flush()
        assert await redis.run_script(self.SCRIPT, ["k"], ["v", 3]) == [b"k", b"v", 6]


class OutageTests(RedisTestCase):
    """Servers that are not there, or not quite."""

    async def refused(self, redis: RedisConnections, within_s: float = 1.0) -> str:
        """Ask, and give the message of the failure, which must come in time."""
        began_s = reactor.seconds()
        failed = await self.assertFailure(redis.call("GET", "a"), StoreUnavailable)
        assert reactor.seconds() - began_s < within_s
        return str(failed)

    async def test_stopped_and_started(self) -> None:
        """A server that comes back is used within about a second, and each outage told once."""
        for kill in (False, True):
            server = self.server(appendonly=True)
            redis = await self.up(server.addr)
            await redis.call("SET", "a", "1")
            self.logged.clear()
            await self.aside(lambda: server.stop(kill=kill))  # noqa: B023 - run at once
            await self.until(lambda: not redis.is_up)  # noqa: B023
            await self.refused(redis)
            await self.sleep(1.2)
            await self.refused(redis)
            await self.aside(server.start)
            await self.until(lambda: redis.is_up, timeout_s=4)  # noqa: B023
            assert await redis.call("GET", "a") == b"1"
            assert self.told() == [
                "redis primary: cannot be reached: the connection is refused",
                "redis primary: is back",
            ]
            await redis.stopService()

    async def test_replies_under_way_when_the_server_dies(self) -> None:
        """Each command fails; none waits for ever."""
        server = self.server()
        redis = await self.up(server.addr)
        server.pause()
        asked = [redis.call("ECHO", number) for number in range(20)]
        failures = [self.assertFailure(each, StoreUnavailable) for each in asked]
        await self.aside(lambda: server.stop(kill=True))
        await gatherResults(failures)

    async def test_a_server_that_hangs(self) -> None:
        """No reply in time is a failure, the connection is given up, and made again."""
        server = self.server()
        redis = await self.up(server.addr, timeout=Duration(0.3))
        await redis.call("SET", "a", "1")
        server.pause()
        assert "in time" in await self.refused(redis, within_s=2)
        await self.refused(redis, within_s=2)
        await self.until(lambda: not redis.is_up)
        assert "in time" not in await self.refused(redis), "it was waited for"
        await self.until(lambda: bool(self.told()))
        server.resume()
        await self.until(lambda: redis.is_up, timeout_s=5)
        assert await redis.call("GET", "a") == b"1"

    async def test_what_accepts_and_says_nothing_is_not_up(self) -> None:
        """A connection counts once the server has answered on it."""
        with SilentServer() as server:
            redis = self.connections(f"127.0.0.1:{server.port}", timeout=Duration(0.2))
            await self.until(lambda: len(server.connections) >= 4)
            assert not redis.is_up
            assert "no reply came in time" in self.told()[0]
            await redis.stopService()

    async def test_what_is_not_a_redis(self) -> None:
        """Other protocols are nonsense, not replies."""
        for greeting in (b"$x\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-" + b"x" * 100_000):
            with SilentServer(greeting) as server:
                redis = self.connections(f"127.0.0.1:{server.port}", timeout=Duration(0.2))
                await self.until(lambda: len(server.connections) >= 4)
                assert not redis.is_up
                await redis.stopService()

    async def test_names_that_do_not_resolve(self) -> None:
        """They are asked for again and again, and told once."""
        redis = self.connections("redis.invalid:6379")
        await self.until(lambda: bool(self.told()), timeout_s=15)
        assert "cannot be reached" in self.told()[0]
        await self.refused(redis)

    async def test_full_servers_and_replicas(self) -> None:
        """A server that cannot take a write is not available, in a script as well."""
        server = self.server(options=("--maxmemory", "1"))
        redis = await self.up(server.addr)
        for call in (
            redis.call("SET", "a", b"x" * 100),
            redis.run_script("return redis.call('SET', KEYS[1], ARGV[1])", ["a"], ["x"]),
        ):
            assert "OOM" in str(await self.assertFailure(call, StoreUnavailable))
        server.send("REPLICAOF", "127.0.0.1", "1")
        for call in (
            redis.call("SET", "a", "x"),
            redis.run_script("return redis.call('SET', KEYS[1], ARGV[1])", ["a"], ["x"]),
        ):
            assert "READONLY" in str(await self.assertFailure(call, StoreUnavailable))


class LoginTests(RedisTestCase):
    """Users and passwords."""

    def no_secret(self, *shown: object) -> None:
        """See that no password is shown."""
        for text in (*map(str, shown), *map(repr, shown), *self.logged):
            assert "canary" not in text

    async def test_a_password(self) -> None:
        """It may hold anything."""
        server = self.server(password="canary-pass'word %s")
        redis = await self.up(server.addr, password=Secret(server.password))
        assert await redis.call("ECHO", "a") == b"a"
        self.no_secret(redis)

    async def test_a_user(self) -> None:
        """A user of the access control lists, with the password of theirs."""
        server = self.server()
        server.send("ACL", "SETUSER", "gateway", "on", ">" + PASSWORD, "~llmproxy:*", "+@all")
        redis = await self.up(server.addr, username="gateway", password=Secret(PASSWORD))
        assert await redis.call("ACL", "WHOAMI") == b"gateway"
        failed = await self.assertFailure(redis.call("GET", "other"), StoreUnavailable)
        assert "NOPERM" in str(failed)
        self.no_secret(redis, failed)

    async def test_wrong_passwords(self) -> None:
        """It is tried again and again, told once, and works once it is right."""
        server = self.server(password="right")
        for settings in ({"password": Secret("canary")}, {}):
            self.logged.clear()
            redis = self.connections(server.addr, **settings)
            await self.until(lambda: bool(self.told()))
            failed = await self.assertFailure(redis.call("GET", "a"), StoreUnavailable)
            self.no_secret(redis, failed)
            await self.sleep(0.5)
            assert len(self.told()) == 1
            await redis.stopService()
        redis = self.connections(server.addr, password=Secret("canary"))
        await self.until(lambda: len(self.told()) == 2)
        server.send("CONFIG", "SET", "requirepass", "canary")
        await self.until(lambda: redis.is_up)
        assert self.told()[-1] == "redis primary: is back"

    async def test_a_password_that_is_not_wanted(self) -> None:
        """The server's own words about it are not repeated."""
        redis = self.connections(password=Secret("canary"))
        await self.until(lambda: bool(self.told()))
        assert not redis.is_up
        self.no_secret(redis)

    async def test_a_database_that_is_not_there(self) -> None:
        """The message says what the server said."""
        self.connections(db=99)
        await self.until(lambda: bool(self.told()))
        assert "out of range" in self.told()[0]


class ServiceTests(RedisTestCase):
    """Starting and stopping."""

    async def test_stopping_waits_for_replies(self) -> None:
        """What was sent is answered, what comes later is refused, all connections close."""
        redis = await self.up()
        sent = [redis.call("INCR", "a") for _ in range(10)]
        stopped = redis.stopService()
        late = self.assertFailure(redis.call("INCR", "a"), StoreUnavailable)
        await stopped
        assert sorted(await gatherResults(sent)) == list(range(1, 11))
        await late
        assert "0 of 2" in repr(redis)
        assert b"connected_clients:1\r\n" in self.redis_server.send("INFO", "clients")

    async def test_stopping_while_the_server_hangs(self) -> None:
        """It takes no longer than a reply may."""
        server = self.server()
        redis = await self.up(server.addr, timeout=Duration(0.3))
        server.pause()
        asked = self.assertFailure(redis.call("GET", "a"), StoreUnavailable)
        began_s = reactor.seconds()
        await redis.stopService()
        assert reactor.seconds() - began_s < 2
        await asked

    async def test_stopping_while_it_connects(self) -> None:
        """Attempts under way are given up, whatever they wait for."""
        with SilentServer() as server:
            redis = self.connections(f"127.0.0.1:{server.port}", timeout=Duration(30))
            await self.until(lambda: len(server.connections) == 2)
            await redis.stopService()
        redis = self.connections("127.0.0.1:1")
        await redis.stopService()
        assert not self.told()

    def test_addresses_without_a_port(self) -> None:
        """They are told as what they are."""
        for addr in ("localhost", ":6379", "localhost:", "localhost:redis"):
            with pytest.raises(ValueError, match="host:port"):
                RedisConnections(Cache(name="primary", addr=addr), reactor)

    async def test_starting_again(self) -> None:
        """What was stopped can be started."""
        redis = await self.up()
        await redis.stopService()
        redis.startService()
        await self.until(lambda: redis.is_up)
        assert await redis.call("ECHO", "a") == b"a"

    async def test_idle_connections_that_the_server_closes(self) -> None:
        """They are made again without delay, and nobody is told."""
        redis = await self.up()
        first = await redis.call("CLIENT", "ID")
        await self.sleep(PROVEN_S + 0.1)
        self.redis_server.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await self.sleep(FIRST_DELAY_S / 2)
        assert await redis.call("CLIENT", "ID") > first + 1
        assert not self.told()
