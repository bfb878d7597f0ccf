"""Tests of `llmproxy.backends.pool`: who may be chosen, in a directory that goes round."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from llmproxy.errors import NoBackend
from llmproxy.interfaces import IBackendLease
from llmproxy.values import ANONYMOUS, Evidence, ModelRoute
from tests.backends.made import backend, make_directory, no_affinity

ROUTE = ModelRoute("m", "m")
EVIDENCE: dict[str, Evidence] = {"good": "good", "bad": "bad", "none": "none"}


class TestBreakers:
    """Backends whose requests fail are left out; these open at the second failure, for 30 s."""

    def setup_method(self) -> None:
        """Make three backends on a clock."""
        self.clock = Clock()
        self.there = make_directory(*map(backend, "abc"), clock=self.clock)

    def fail(self, *names: str) -> None:
        """Let two requests of each of these fail, in this order, a second apart."""
        for name in names:
            for _ in range(2):
                lease = self.there.acquire(
                    ModelRoute("m", "m", frozenset((name,))), frozenset(), no_affinity
                )
                lease.report("bad")
                lease.release()
            self.clock.advance(1.0)

    def names(self, times: int, *tried: str) -> str:
        """Acquire so many leases and give them back; give the names."""
        names = ""
        for _ in range(times):
            lease = self.there.acquire(ROUTE, frozenset(tried), no_affinity)
            names += lease.backend.name
            lease.release()
        return names

    def shown(self) -> dict[str, tuple[str, bool]]:
        """Give what people see of the breakers."""
        return {one.name: (one.breaker, one.ejected) for one in self.there.statuses()}

    def test_left_out(self) -> None:
        """The others share its requests."""
        self.fail("a")
        assert self.names(4) == "bcbc"
        self.there.route("m", ANONYMOUS)
        assert self.shown() == {
            "a": ("open", True),
            "b": ("closed", False),
            "c": ("closed", False),
        }

    def test_half_open_takes_one(self) -> None:
        """One request goes there; while it is out no other does."""
        self.fail("a")
        assert self.names(2) == "bc"
        self.clock.advance(30.0)
        probe = self.there.acquire(ROUTE, frozenset(), no_affinity)
        assert probe.backend.name == "a"
        assert self.names(4) == "bcbc"
        probe.release()
        assert self.names(1) == "a", "who was cancelled gave the probe back"

    def test_turns_are_counted_while_others_are_out(self) -> None:
        """Who was the only one left had a turn like any other."""
        self.there.drain("c")
        assert self.names(1) == "a"
        self.fail("a")
        assert self.names(3) == "bbb"
        self.clock.advance(30.0)
        assert self.names(1) == "a"

    def test_closes_and_starts_slowly(self) -> None:
        """A good probe closes it, with a tenth of its weight."""
        self.fail("a")
        assert self.names(2) == "bc"
        self.clock.advance(30.0)
        probe = self.there.acquire(ROUTE, frozenset(), no_affinity)
        probe.report("good")
        probe.release()
        (a, _, _) = self.there.statuses()
        assert (a.breaker, a.share_percent, a.times_opened) == ("closed", 10, 1)
        assert set(self.names(3)) == set("abc")

    def test_never_too_many(self) -> None:
        """One of three: the other that is open, the less bad of the two, goes on."""
        self.fail("b", "a")
        assert set(self.names(6)) == set("bc")
        self.there.route("m", ANONYMOUS)
        assert self.shown() == {"a": ("open", True), "b": ("open", False), "c": ("closed", False)}

    def test_panic(self) -> None:
        """All are out: with max_ejected the least bad are tried, rather than none."""
        self.fail("c", "b", "a")
        assert set(self.names(6)) == set("bc")
        self.there = make_directory(*map(backend, "abc"), clock=self.clock, max_ejected_percent=100)
        self.fail("c", "b", "a")
        assert set(self.names(6)) == {"c"}
        with pytest.raises(NoBackend):
            self.names(1, "c")

    def test_a_lone_backend_is_never_left_out(self) -> None:
        """Not for the model that only it serves, though it is for others."""
        self.there = make_directory(
            backend("a", "m", "only-a"), backend("b", "m"), clock=self.clock
        )
        self.fail("a")
        assert self.names(3) == "bbb"
        lease = self.there.acquire(ModelRoute("only-a", "only-a"), frozenset(), no_affinity)
        assert lease.backend.name == "a"
        assert self.shown() == {"a": ("open", True), "b": ("closed", False)}

    def test_those_that_are_down_do_not_count(self) -> None:
        """Of two that are up one may be left out, whatever else there is."""
        self.fail("a", "b")
        assert set(self.names(4)) == set("ac")
        self.there.set_health("c", "down", "refused")
        assert set(self.names(4)) == {"a"}

    def test_tried_ones_are_not_in_the_way(self) -> None:
        """Another attempt goes to one that is left in, or nowhere: the wait is the caller's."""
        self.fail("a")
        assert self.names(2, "b") == "cc"
        with pytest.raises(NoBackend):
            self.names(1, "b", "c")

    def test_nothing_of_a_request_refused(self) -> None:
        """A thousand answers that show nothing move nothing."""
        for _ in range(1000):
            lease = self.there.acquire(ROUTE, frozenset(), no_affinity)
            lease.report("none")
            lease.release()
        assert {one.breaker for one in self.there.statuses()} == {"closed"}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), st.sampled_from(["", "a", "b", "c", "d"])),
        st.tuples(st.sampled_from(["good", "bad", "none", "leave"]), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 5.0, 30.0])),
        st.tuples(st.sampled_from(["up", "down", "loading", "drain"]), st.sampled_from("abcd")),
    ),
    max_size=60,
)


@given(steps, st.sampled_from([0, 34, 50, 100]))
def test_whatever_happens(walk: list[tuple[str, str | int | float]], percent: int) -> None:
    """Somebody who is up always gets the request; and no more are left out than may be.

    That is so after any past of requests that end well or badly, checks and drains.
    """
    clock = Clock()
    there = make_directory(*map(backend, "abcd"), clock=clock, max_ejected_percent=percent)
    leases: list[IBackendLease] = []
    for what, which in walk:
        if what == "acquire":
            before = {one.name: one for one in there.statuses()}
            up = [one for one in before.values() if one.state == "up" and one.name != which]
            try:
                lease = there.acquire(ROUTE, frozenset((str(which),)), no_affinity)
            except NoBackend:
                # Only when the one that was tried is all that is left in.
                assert all(one.ejected for one in up)
                continue
            leases.append(lease)
            chosen = before[lease.backend.name]
            assert chosen in up
            assert not chosen.ejected
        elif what == "wait":
            clock.advance(float(which))
        elif what in ("good", "bad", "none", "leave"):
            if leases:
                lease = leases.pop(int(which) % len(leases))
                if what != "leave":
                    lease.report(EVIDENCE[what])
                lease.release()
        elif what == "drain":
            there.drain(str(which))
        else:
            there.enable(str(which))
            there.set_health(str(which), what, "why")
        there.route("m", ANONYMOUS)
        statuses = there.statuses()
        pool = [one for one in statuses if one.state == "up"]
        ejected = [one for one in pool if one.ejected]
        assert len(ejected) <= len(pool) * percent / 100
        assert len(ejected) < max(len(pool), 1)
        assert all(one.breaker != "closed" for one in ejected)
        held = Counter(lease.backend.name for lease in leases)
        assert {one.name: one.in_flight for one in there.statuses()} == {
            name: held[name] for name in "abcd"
        }
    for lease in leases:
        lease.release()
    assert sum(one.in_flight for one in there.statuses()) == 0
