"""What processes cost: the CPU time and memory of a whole process tree, read from ``/proc``."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Memory:
    """Memory of a process tree.

    Attributes:
        rss_bytes: Resident; what processes share is counted once for each.
        pss_bytes: Resident; what processes share is divided among them.
        private_bytes: Resident; what is shared with no process.
    """

    rss_bytes: int
    pss_bytes: int
    private_bytes: int


def process_tree(pid: int) -> list[int]:
    """Give a process and all that descend from it; empty when it is gone."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return []
    tree = [pid]
    for task in tasks:
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text()
        except FileNotFoundError:
            continue  # a thread that has ended meanwhile
        for child in children.split():
            tree += process_tree(int(child))
    return tree


def cpu_s(pid: int) -> float:
    """Give the CPU seconds, user and system, that a process tree has used so far.

    The kernel counts in ticks (10 ms as a rule): measure over seconds, not over moments.
    """
    ticks = 0
    for one in process_tree(pid):
        try:
            stat = Path(f"/proc/{one}/stat").read_text()
        except FileNotFoundError:
            continue
        # The second field, the name in brackets, may hold blanks: count from its end (proc(5)).
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def memory(pid: int) -> Memory:
    """Give the memory of a process tree at this moment."""
    rss = pss = private = 0
    for one in process_tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name == "Rss":
                rss += int(value.split()[0]) * 1024
            elif name == "Pss":
                pss += int(value.split()[0]) * 1024
            elif name in ("Private_Clean", "Private_Dirty"):
                private += int(value.split()[0]) * 1024
    return Memory(rss, pss, private)
