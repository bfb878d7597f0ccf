"""Any sequence of reports, deliveries, failures, full disks, crashes and damage: nothing is lost.

A walk over a real directory, held against a list of what was reported.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmproxy.config.setting import Duration
from llmproxy.deliveries import Batch
from llmproxy.errors import DeliveryFailed
from tests.usage.rig import FakeSink, Numbers, World, clock_of_tests, ids_of, record
from tests.usage.test_segment_writer import Disk


class SpoolWalk(RuleBasedStateMachine):
    """One daemon after the other on one directory, and one receiver."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = clock_of_tests()
        self.sink = FakeSink("usage")
        self.new_id = Numbers()
        self.reported: list[str] = []
        self.lost: set[str] = set()  # with a crash, in memory, for the disk was full
        self.hit: set[str] = set()  # by damage
        self.start()

    def start(self) -> None:
        """Start a daemon."""
        self.disk = Disk()
        self.sink.held.clear()
        self.world = World(
            self.folder,
            self.sink,
            clock=self.clock,
            new_id=self.new_id,
            write=self.disk.write,
            spool_max_size=1 << 17,
            spool_sync_interval=Duration(0.0),  # the rig has no threads
        )
        self.world.start()

    @rule(count=st.integers(1, 40))
    def report(self, count: int) -> None:
        """Requests end."""
        for _ in range(count):
            name = f"r{len(self.reported)}"
            self.reported.append(name)
            self.world.spool.report(record(name))

    @rule(seconds=st.sampled_from([0.5, 6.0, 100.0]))
    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.world.pump(seconds, seconds / 12)

    @rule(mood=st.sampled_from(["takes", "fails", "holds"]))
    def change_mood(self, mood: str) -> None:
        """The receiver behaves otherwise from now on."""
        self.sink.error = DeliveryFailed("no") if mood == "fails" else None
        self.sink.holds = mood == "holds"
        while self.sink.held and mood != "holds":
            self.sink.held.pop().callback(None)

    @rule(room_bytes=st.none() | st.integers(0, 5000))
    def change_disk(self, room_bytes: int | None) -> None:
        """The disk fills up, or there is room again."""
        self.disk.room_bytes = room_bytes

    @rule(
        tail=st.binary(max_size=30),
        flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=2),
    )
    def crash(self, tail: bytes, flips: list[tuple[int, int]]) -> None:
        """Kill -9, and what a machine's end may do to its files; then a new start."""
        waiting = self.world.spool.waiting_records
        self.lost |= set(self.reported[len(self.reported) - waiting :])
        for call in tuple(self.clock.getDelayedCalls()):
            call.cancel()
        self.world.kill()
        files = sorted((self.folder / "spool" / "0").glob("*.log"))
        if files:
            with files[-1].open("ab") as file:
                file.write(tail.replace(b"\n", b""))
        for place, mask in flips:
            for path in files[place % 3 : place % 3 + 1]:
                self.flip(path, place, mask)
        self.start()

    def flip(self, path: Path, place: int, mask: int) -> None:
        """Damage a byte, and note whose it was."""
        content = bytearray(path.read_bytes())
        if not content:
            return
        place %= len(content)
        lines = bytes(content).split(b"\n")
        end = 0
        for line in lines:
            end += len(line) + 1
            if place < end:
                self.hit |= {name for name in self.reported if b'"id":"%s"' % name.encode() in line}
                break
        content[place] ^= mask
        path.write_bytes(content)

    @rule()
    def restart(self) -> None:
        """SIGTERM, and a new start; a receiver that does not answer is waited for in vain."""
        ends: list[Any] = []
        waiting = self.world.spool.waiting_records
        self.world.delivery.stopService().addErrback(lambda _: None).addBoth(ends.append)
        for held in self.sink.held:
            held.addErrback(lambda _: None)
        self.world.pump(10)
        self.world.spool.stopService().addBoth(ends.append)
        self.world.pump()
        assert len(ends) == 2
        left = self.world.spool.lost_records
        assert left <= waiting
        self.lost |= set(self.reported[len(self.reported) - left :] if left else ())
        self.world.slot.close()
        assert self.clock.getDelayedCalls() == []
        self.start()

    @invariant()
    def nothing_is_invented(self) -> None:
        """What came was reported, in that order; a batch is the same at every try."""
        first_came = list(dict.fromkeys(ids_of(self.sink.taken)))
        assert first_came == sorted(first_came, key=lambda name: int(name[1:]))
        assert set(first_came) <= set(self.reported)
        if not self.hit:
            by_id: dict[str, Batch] = {}
            assert all(by_id.setdefault(one.id, one) == one for one in self.sink.tries)

    def teardown(self) -> None:
        """In the end everything comes."""
        try:
            self.disk.room_bytes = None
            self.change_mood("takes")
            self.world.pump(200, 10)
            came = set(ids_of(self.sink.taken))
            assert set(self.reported) - self.lost - self.hit <= came
            assert self.world.cursor.backlog_records == 0
            self.world.stop()
        finally:
            shutil.rmtree(self.folder)


TestSpoolWalk = SpoolWalk.TestCase
TestSpoolWalk.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
