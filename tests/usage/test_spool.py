"""Tests of `llmproxy.usage.spool`: what was reported is there, whatever happens."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from errno import EDQUOT, ENOSPC
from pathlib import Path
from random import Random

import attrs
import pytest

from llmproxy.errors import DeliveryFailed
from llmproxy.usage import spool as spool_module
from llmproxy.usage.slot import take_slot
from llmproxy.wire.spool_line import decode_line
from tests.stores.logged import Logged
from tests.usage.rig import FakeSink, World, alert, ids_of, record
from tests.usage.test_segment_writer import Disk

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS = 12
SEED = 20261127


def stored(folder: Path) -> list[bytes]:
    """Give the events in the files of the first part, as anybody would read them."""
    found = []
    for path in sorted((folder / "spool" / "0").glob("*.log")):
        for raw in path.read_bytes().splitlines():
            line = decode_line(raw)
            assert line is not None
            found.append(line.event)
    return found


def delivered(world: World) -> list[str]:
    """Let everything be delivered; give the ids."""
    world.pump(20)
    return ids_of(world.sink.taken)


def test_it_is_on_the_disk_at_once(tmp_path: Path) -> None:
    """When `report` returns, another process can read it; so with alerts."""
    world = World(tmp_path)
    world.spool.report(record("a"))
    assert len(stored(tmp_path)) == 1
    world.spool.alert(alert("x"))
    assert [b'"id":"a"' in stored(tmp_path)[0], b'"long_stream"' in stored(tmp_path)[1]] == [
        True,
        True,
    ]
    assert world.spool.written_records == 2
    assert "written=2 waiting=0 lost=0" in repr(world.spool)
    world.kill()


def test_a_full_disk(tmp_path: Path) -> None:
    """Records wait in memory and are written, in order, once there is room; told of once."""
    logged = Logged("Spool")
    disk = Disk()
    world = World(tmp_path, write=disk.write)
    world.start()
    world.spool.report(record("a"))
    disk.room_bytes = 100
    for name in "bcd":
        world.spool.report(record(name))
    world.pump(3)
    assert world.spool.waiting_records == 3
    disk.room_bytes = None
    world.spool.report(record("e"))
    assert world.spool.waiting_records == 4
    world.pump(1)
    assert world.spool.waiting_records == 0
    world.spool.report(record("f"))
    assert delivered(world) == list("abcdef")
    assert (world.spool.lost_records, world.spool.written_records) == (0, 6)
    logged.stop()
    assert len(logged.lines) == 2
    assert "No space left on device" in logged.lines[0]
    world.stop()


@pytest.mark.parametrize("cause", [ENOSPC, EDQUOT])
def test_a_full_disk_with_delivered_records_on_it(tmp_path: Path, cause: int) -> None:
    """They go before their time, the oldest first, so that no new one has to wait."""

    def write(descriptor: int, block: bytes) -> int:
        held = sum(path.stat().st_size for path in (tmp_path / "spool" / "0").glob("*.log"))
        room_bytes = 40_000 - held
        if room_bytes <= 0:
            raise OSError(cause, os.strerror(cause))
        return os.write(descriptor, block[:room_bytes])

    world = World(tmp_path, write=write, spool_max_size=80_000)
    world.start()
    names = [f"r{n}" for n in range(200)]
    for name in names:
        world.spool.report(record(name))
        assert world.spool.waiting_records == 0
        world.pump(1)
    assert delivered(world) == names
    left = [json.loads(event)["id"] for event in stored(tmp_path)]
    assert 20 < len(left) < 100
    assert left == names[-len(left) :]
    # What is not delivered stays: new records wait then.
    world.sink.error = DeliveryFailed("no")
    late = [f"s{n}" for n in range(100)]
    for name in late:
        world.spool.report(record(name))
    assert 0 < world.spool.waiting_records < 100
    world.sink.error = None
    assert delivered(world) == names + late
    assert world.spool.lost_records == 0
    world.stop()


def test_more_than_memory_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is lost, counted, and told of once for each outage."""
    monkeypatch.setattr(spool_module, "WAITING_BYTES", 2000)
    logged = Logged("Spool")
    disk = Disk()
    world = World(tmp_path, write=disk.write)
    world.start()
    for outage in range(2):
        disk.room_bytes = 0
        for n in range(20):
            world.spool.report(record(f"{outage}-{n}"))
        waiting = world.spool.waiting_records
        assert 0 < waiting < 20
        disk.room_bytes = None
        world.pump(1)
        assert world.spool.lost_records == (outage + 1) * (20 - waiting)
    names = [f"{outage}-{n}" for outage in range(2) for n in range(waiting)]
    assert delivered(world) == names
    logged.stop()
    assert sum("records are lost" in line for line in logged.lines) == 2
    world.stop()


def test_waiting_records_are_written_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up again in between keeps the rest waiting."""
    monkeypatch.setattr(spool_module, "_BLOCK_BYTES", 1500)
    disk = Disk()
    world = World(tmp_path, write=disk.write)
    world.start()
    disk.room_bytes = 0
    names = [f"r{n}" for n in range(20)]
    for name in names:
        world.spool.report(record(name))
    disk.room_bytes = 4000
    world.pump(1)
    assert 0 < world.spool.waiting_records < 20
    disk.room_bytes = None
    world.pump(1)
    assert delivered(world) == names
    world.stop()


def test_the_end_comes_while_the_disk_is_full(tmp_path: Path) -> None:
    """What could not be written is counted as lost."""
    logged = Logged("Spool")
    disk = Disk()
    world = World(tmp_path, write=disk.write)
    world.start()
    disk.room_bytes = 0
    world.spool.report(record("a"))
    world.stop()
    logged.stop()
    assert world.spool.lost_records == 1
    assert "before the end" in logged.lines[-1]


def test_the_largest_size(tmp_path: Path) -> None:
    """Delivered records go; undelivered ones stay, and the new ones wait, then are lost."""
    world = World(tmp_path, spool_max_size=20_000)
    world.start()
    for n in range(100):
        world.spool.report(record(f"r{n}"))
        world.pump(0.25)
    assert world.spool.lost_records == world.spool.waiting_records == 0
    assert world.slot.segments.total_bytes <= 20_000
    assert len(delivered(world)) == 100
    world.sink.holds = True
    for n in range(100):
        world.spool.report(record(f"s{n}"))
        world.pump(0.25)
    assert 0 < world.spool.waiting_records < 100
    assert world.slot.segments.total_bytes <= 20_000
    world.sink.holds = False
    world.sink.held.pop().callback(None)
    assert delivered(world)[100:] == [f"s{n}" for n in range(100)]
    assert world.spool.lost_records == 0
    world.stop()


def test_who_is_gone_makes_room(tmp_path: Path) -> None:
    """A receiver that wants nothing more holds nothing back when room is needed."""
    world = World(tmp_path, spool_max_size=20_000)
    world.receiver.is_gone = True
    world.start()
    for n in range(100):
        world.spool.report(record(f"r{n}"))
    assert world.spool.waiting_records == 0
    assert world.receiver.skipped_records > 0
    world.stop()


def test_delivered_records_are_kept_for_a_while(tmp_path: Path) -> None:
    """Then their files go."""
    world = World(tmp_path, spool_max_size=20_000, spool_retention=1000.0)
    world.start()
    for n in range(10):
        world.spool.report(record(f"r{n}"))
    assert len(delivered(world)) == 10
    world.pump(900, 30)
    assert len(stored(tmp_path)) == 10
    world.pump(200, 30)
    assert len(stored(tmp_path)) < 5
    world.stop()


def test_the_end_deletes_nothing_that_is_not_delivered(tmp_path: Path) -> None:
    """However old it is, and though its delivery has ended before the spool does."""
    world = World(tmp_path, spool_max_size=20_000, spool_retention=1000.0)
    world.start()
    world.sink.error = DeliveryFailed("no")
    for n in range(20):
        world.spool.report(record(f"r{n}"))
    world.clock.advance(2000)
    world.stop()
    assert len(stored(tmp_path)) == 20


@pytest.mark.parametrize(
    "fields",
    [
        {"request_body": b"x" * (2 << 20)},
        {"request_body": b"\0" * (1 << 19)},
        {"model": "m" * (2 << 20), "tool_calls": {"f" * (1 << 20): 3}},
    ],
)
def test_records_that_are_too_long(tmp_path: Path, fields: dict[str, object]) -> None:
    """They lose what makes them so; the counts are there."""
    world = World(tmp_path)
    world.start()
    world.spool.report(record("a", **fields))
    assert len(stored(tmp_path)[0]) < spool_module.EVENT_BYTES
    assert b'"total_tokens":30' in stored(tmp_path)[0]
    assert b"request_body" not in stored(tmp_path)[0]
    assert delivered(world) == ["a"]
    world.stop()


def test_a_body_that_fits(tmp_path: Path) -> None:
    """It is there."""
    world = World(tmp_path)
    world.spool.report(record("a", request_body=b'{"x":1}'))
    assert rb'"request_body":"{\"x\":1}"' in stored(tmp_path)[0]
    world.kill()


def test_nothing_comes_back_to_who_reports(tmp_path: Path) -> None:
    """Whatever is wrong with a record."""
    logged = Logged("Spool")
    world = World(tmp_path)
    world.spool.report(attrs.evolve(record(), duration_ms="no number"))  # type: ignore[arg-type]
    world.spool.alert(attrs.evolve(alert(), duration_s="no number"))  # type: ignore[arg-type]
    logged.stop()
    assert world.spool.lost_records == 2
    assert "a usage record cannot be kept" in logged.lines[0]
    world.kill()


WRITER = """
import sys
from pathlib import Path
from llmproxy.usage import spool
from tests.usage.rig import World, record
spool.SEGMENT_BYTES = 20_000
world = World(Path(sys.argv[1]))
for n in range(10**9):
    world.spool.report(record(f"{sys.argv[2]}-{n}"))
    print(n, flush=True)
"""


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    """What was acknowledged before the kill is there, once, and nothing else is."""
    chance = Random(SEED)
    acknowledged: list[str] = []
    last_of: dict[int, int] = {}
    first = World(tmp_path)  # so that the reporter has its place before the first record
    first.kill()
    for kill in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(kill)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert writer.stdout is not None
        enough = chance.randrange(1, 400)
        acknowledged += [f"{kill}-{int(writer.stdout.readline())}" for _ in range(enough)]
        writer.kill()
        rest = writer.stdout.read().split("\n")
        acknowledged += [f"{kill}-{int(n)}" for n in rest[:-1]]
        last_of[kill] = int(acknowledged[-1].split("-")[1])
        writer.wait()
        writer.stdout.close()
    world = World(tmp_path)
    world.start()
    found = delivered(world)
    world.stop()
    assert len(set(found)) == len(found)
    # A kill in the middle of a write leaves half a record, which was not acknowledged either.
    assert world.slot.damage.records == 0
    # One more may have been written in each life, whose acknowledgement was not.
    unacknowledged = [name for name in found if name not in set(acknowledged)]
    assert all(int(n) == last_of[int(k)] + 1 for k, n in (one.split("-") for one in unacknowledged))
    assert [name for name in found if name not in unacknowledged] == acknowledged


LIMITED = """
import resource, sys
from pathlib import Path
from tests.usage.rig import World, record
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
world = World(Path(sys.argv[1]))
world.start()
names = [f"r{n}" for n in range(20)]
for name in names:
    world.spool.report(record(name))
assert world.spool.waiting_records > 10, world.spool
assert (Path(sys.argv[1]) / "spool/0/0000000000000000.log").stat().st_size <= 3000
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
world.pump(20)
from tests.usage.rig import ids_of
assert ids_of(world.sink.taken) == names, ids_of(world.sink.taken)
world.stop()
"""


def test_a_limit_of_the_system(tmp_path: Path) -> None:
    """A write that the kernel cuts short in the middle of a line leaves no half line behind."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_two_daemons_on_one_directory(tmp_path: Path) -> None:
    """Each has a part of its own; nobody writes into the other's files."""
    one, other = World(tmp_path), World(tmp_path, FakeSink())
    one.start()
    other.start()
    for n in range(10):
        one.spool.report(record(f"one-{n}"))
        other.spool.report(record(f"other-{n}"))
    assert delivered(one) == [f"one-{n}" for n in range(10)]
    assert delivered(other) == [f"other-{n}" for n in range(10)]
    one.stop()
    other.stop()
    assert sorted(os.listdir(tmp_path / "spool")) == ["0", "1"]
    assert take_slot(str(tmp_path / "spool")).segments.end.ordinal == 10


def test_a_directory_that_somebody_has_deleted(tmp_path: Path) -> None:
    """It is made again with the next record; a kill before the delivery loses nothing of that."""
    world = World(tmp_path)
    world.start()
    world.spool.report(record("a"))
    assert delivered(world) == ["a"]
    shutil.rmtree(tmp_path / "spool")
    world.spool.report(record("b"))
    assert len(stored(tmp_path)) == 1
    world.kill()
    again = World(tmp_path)
    again.start()
    assert delivered(again) == ["b"]
    again.kill()
