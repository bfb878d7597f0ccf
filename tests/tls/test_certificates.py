"""Which certificate a client is shown, files that change, and ends that are near."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher

from llmproxy.config.model import ServerTls, TlsCertificate
from llmproxy.tls.certificates import DAY_S, LOOK_INTERVAL_S, SOON_S, Certificates
from tests.tls.pair import Pair, trusting
from tests.upstream.certificates import Authority

WARNED = SOON_S / DAY_S


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """Give what is logged."""
    events: list[Any] = []
    observe: Any = events.append
    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


def messages(events: list[Any], level: LogLevel) -> list[str]:
    """Write what was logged at a level, and forget all of it."""
    found = [e["log_format"].format(**e) for e in events if e["log_level"] is level]
    events.clear()
    return found


class World:
    """Certificates over files that a test may change.

    Attributes:
        clock: Keeps time for them.
        settings: What they were made of.
        ours: They.
    """

    def __init__(self, folder: Path, authority: Authority, days: float = 1) -> None:
        self.authority = authority
        self.clock = Clock()
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.write(days)
        self.settings = ServerTls(cert_file=str(self.cert), key_file=str(self.key))
        self.ours = Certificates(self.settings, self.clock, time.time)

    def issue(self, days: float = 1) -> tuple[str, str]:
        """Make another certificate and its key."""
        return self.authority.issue("gateway.test", days=days)

    def write(self, days: float = 1) -> None:
        """Replace both files, as cp does."""
        cert, key = self.issue(days)
        shutil.copy(cert, self.cert)
        shutil.copy(key, self.key)

    def look(self, times: int = 2) -> None:
        """Let so many looks at the files pass."""
        for _ in range(times):
            self.clock.advance(LOOK_INTERVAL_S)

    def shown(self) -> bytes:
        """Give the certificate that a new connection is shown."""
        pair = Pair(self.ours, trusting(self.authority))
        pair.shake_hands()
        shown = pair.client.getpeercert(binary_form=True)
        assert shown
        return shown


@pytest.fixture
def world(tmp_path: Path, authority: Authority) -> Iterator[World]:
    """Give a world that looks at its files."""
    world = World(tmp_path, authority, days=WARNED + 1)
    world.ours.startService()
    yield world
    world.ours.stopService()
    assert world.clock.getDelayedCalls() == []


@pytest.fixture(scope="module")
def ours(settings: ServerTls, authority: Authority) -> Certificates:
    """Give four certificates, three of them for certain names."""
    further = []
    for names in (
        ("*.example.test",),
        ("a.example.test", "b.test"),
        ("*.deep.example.test",),
    ):
        cert_file, key_file = authority.issue(*names)
        further.append(TlsCertificate(server_names=names, cert_file=cert_file, key_file=key_file))
    return Certificates(attrs.evolve(settings, certificates=tuple(further)), Clock(), time.time)


class TestNames:
    """SNI."""

    @pytest.mark.parametrize(
        ("name", "number"),
        [
            ("a.example.test", 2),
            ("A.Example.TEST", 2),
            ("b.test", 2),
            ("b.test.", 2),
            ("b.example.test", 1),
            ("x.deep.example.test", 3),
            ("deep.example.test", 1),
            ("y.x.deep.example.test", 0),
            ("example.test", 0),
            ("*.example.test", 1),
            ("gateway.test", 0),
            ("unknown.test", 0),
            ("localhost", 0),
            ("", 0),
        ],
    )
    def test_chosen(self, ours: Certificates, name: str, number: int) -> None:
        """An exact name before one with a star, which stands for one label; else the default."""
        assert ours.choose(name) is ours.certificates[number]

    @pytest.mark.parametrize(
        "name", ["a.example.test", "b.example.test", "x.deep.example.test", "gateway.test"]
    )
    def test_shown(self, ours: Certificates, authority: Authority, name: str) -> None:
        """Each client sees the certificate that it asks for, and believes it; ALPN is as ever."""
        context = trusting(authority)
        context.set_alpn_protocols(["http/1.1"])
        pair = Pair(ours, context, name=name)
        pair.shake_hands()
        assert pair.client.selected_alpn_protocol() == "http/1.1"

    def test_a_client_that_asks_for_none(self, ours: Certificates, authority: Authority) -> None:
        """It is shown the default one."""
        context = trusting(authority)
        context.check_hostname = False
        pair = Pair(ours, context, name=None)
        pair.shake_hands()
        shown: Any = pair.client.getpeercert()
        assert shown["subjectAltName"] == (("DNS", "gateway.test"),)

    def test_clients_are_verified_under_every_name(
        self, ours: Certificates, authority: Authority
    ) -> None:
        """Nobody gets around it by asking for another name."""
        strict = Certificates(
            attrs.evolve(ours._settings, client_auth="require", client_ca_file=authority.cert_file),
            Clock(),
            time.time,
        )
        for name in ("a.example.test", "gateway.test"):
            context = trusting(authority)
            context.load_cert_chain(*authority.issue("alice"))
            good = Pair(strict, context, name=name)
            good.shake_hands()
            assert good.tls.client_subject() == "CN=alice"
            bare = Pair(strict, trusting(authority), name=name)
            bare.shake_hands()
            bare.pump()
            assert bare.transport.disconnecting


class TestFilesThatChange:
    """New certificates for new connections."""

    def test_changed(self, world: World, logged: list[Any]) -> None:
        """New connections get the new one; one that is open goes on as it was."""
        before = world.shown()
        running = Pair(world.ours, trusting(world.authority))
        running.shake_hands()
        messages(logged, LogLevel.info)
        world.write(days=WARNED + 2)
        world.look()
        assert world.shown() != before
        assert messages(logged, LogLevel.info) == ["1 TLS certificates are loaded anew"]
        running.client.write(b"still here")
        running.pump()
        running.tls.write(b"so am I")
        assert (running.above.received, running.read()) == (b"still here", b"so am I")
        assert running.client.getpeercert(binary_form=True) == before

    def test_nothing_is_loaded_while_nothing_changes(self, world: World, logged: list[Any]) -> None:
        """Looks alone do nothing."""
        before = world.ours.certificates
        world.look(50)
        assert world.ours.certificates is before
        assert logged == []

    def test_a_key_that_comes_later(self, world: World, logged: list[Any]) -> None:
        """Between two files that belong together nothing is loaded, and nothing complained of."""
        before = world.shown()
        cert, key = world.issue(WARNED + 1)
        shutil.copy(cert, world.cert)
        world.look(1)
        shutil.copy(key, world.key)
        world.look(1)
        assert world.shown() == before
        world.look(1)
        assert world.shown() != before
        assert messages(logged, LogLevel.error) == []

    def test_replaced_by_a_link(self, world: World) -> None:
        """As container platforms do it: even when size and time are the same."""
        before = world.shown()
        for file, new in zip((world.cert, world.key), world.issue(WARNED + 1), strict=True):
            old = os.stat(file)
            os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
            link = file.with_suffix(".new")
            link.symlink_to(new)
            link.replace(file)
        world.look()
        assert world.shown() != before

    @pytest.mark.parametrize("fault", ["garbage", "other key", "gone"])
    def test_bad_files(self, world: World, logged: list[Any], fault: str) -> None:
        """The old certificate stays in force; why is told once. Later good ones are taken."""
        before = world.shown()
        if fault == "garbage":
            world.cert.write_text("no certificate")
        elif fault == "other key":
            shutil.copy(world.issue()[1], world.key)
        else:
            world.key.unlink()
        world.look(20)
        assert world.shown() == before
        (told,) = messages(logged, LogLevel.error)
        assert "cannot be used; those before stay in force: " in told
        assert str(world.key) in told
        world.write(days=WARNED + 1)
        world.look()
        assert world.shown() != before
        assert messages(logged, LogLevel.error) == []

    def test_told_to(self, world: World) -> None:
        """`Certificates.reload` takes what is there at once, and says what is wrong with it."""
        before = world.shown()
        world.write()
        world.ours.reload()
        now = world.shown()
        assert now != before
        world.cert.write_text("no certificate")
        with pytest.raises(ValueError, match="cannot be used"):
            world.ours.reload()
        assert world.shown() == now

    def test_a_fault_of_ours(
        self, world: World, logged: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is logged, and the next look comes all the same."""

        def break_down(_: object) -> None:
            raise RuntimeError("broken")

        with monkeypatch.context() as patched:
            patched.setattr("llmproxy.tls.certificates._stamps", break_down)
            world.look()
        assert len(messages(logged, LogLevel.critical)) == 2
        before = world.shown()
        world.write(days=WARNED + 1)
        world.look()
        assert world.shown() != before


class TestEnds:
    """Certificates that end soon."""

    def test_warned_of(self, tmp_path: Path, authority: Authority, logged: list[Any]) -> None:
        """At the start and every day, until there is a better one; then that one counts."""
        world = World(tmp_path, authority, days=3.5)
        world.ours.startService()
        (told,) = messages(logged, LogLevel.warn)
        assert told.startswith(f"the TLS certificate in {world.cert} ends on 2")
        assert told.endswith(" (3 days)")
        world.clock.pump([DAY_S] * 3)
        assert len(messages(logged, LogLevel.warn)) == 3
        world.write(days=WARNED + 1)
        world.look()
        world.clock.pump([DAY_S] * 3)
        assert messages(logged, LogLevel.warn) == []
        world.write(days=-2)
        world.look()
        (told,) = messages(logged, LogLevel.warn)
        assert " has ended on 2" in told
        world.ours.stopService()

    def test_not_warned_of(self, world: World, logged: list[Any]) -> None:
        """A certificate with more than a fortnight left is nobody's concern; its end is known."""
        world.clock.pump([DAY_S] * 5)
        assert messages(logged, LogLevel.warn) == []
        (one,) = world.ours.certificates
        assert WARNED * DAY_S < one.not_after_s - time.time() < (WARNED + 1) * DAY_S


def test_shown_without_secrets(settings: ServerTls) -> None:
    """Which files there are, and nothing of what is in them."""
    ours = Certificates(settings, Clock(), time.time)
    assert repr(ours) == f"<Certificates ['{settings.cert_file}']>"
