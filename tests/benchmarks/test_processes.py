"""CPU time and memory of process trees."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.processes import cpu_s, memory, process_tree

GRANDCHILD = """\
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import time
block = bytearray(50_000_000)
while time.process_time() < 0.3: pass
print("ready", flush=True)
time.sleep(60)
'''])
child.wait()
"""


@pytest.fixture
def family() -> Iterator[int]:
    """A process whose child has used 0.3 s of CPU and 50 MB."""
    with subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        yield parent.pid
        for pid in reversed(process_tree(parent.pid)):
            os.kill(pid, 9)


def test_children_are_counted(family: int) -> None:
    """What the child used counts as its parent's."""
    assert len(process_tree(family)) == 2
    assert cpu_s(family) >= 0.25
    assert memory(family).rss_bytes > 50_000_000
    assert 50_000_000 < memory(family).private_bytes <= memory(family).pss_bytes
    assert memory(family).pss_bytes <= memory(family).rss_bytes


def test_a_process_that_is_gone_costs_nothing() -> None:
    """No error, and zero."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert process_tree(child.pid) == []
    assert cpu_s(child.pid) == 0
    assert memory(child.pid).rss_bytes == 0
