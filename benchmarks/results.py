"""What one run of the benchmark found."""

from __future__ import annotations

import msgspec

from benchmarks.machine import Machine
from benchmarks.measure import Measured

OURS, PEER, DIRECT = "LLMProxy", "nginx", "direct"

OPEN = "LLMProxy-open"
"""LLMProxy without keys, limits and quotas: what these cost is the difference."""

TWO = "LLMProxy-2"
"""LLMProxy with two workers: where the CPU of a request stays, rates double with the cores."""


class IdleMemory(msgspec.Struct):
    """Memory of a gateway that has relayed one request and idles.

    Attributes:
        gateway: Its name.
        rss_bytes: Resident.
        pss_bytes: Resident, shared pages divided among their users.
    """

    gateway: str
    rss_bytes: int
    pss_bytes: int


class Results(msgspec.Struct):
    """All that one run of the benchmark found.

    Attributes:
        command: The command line.
        machine: What it ran on.
        rounds: How many rounds were wanted.
        seconds: Of each workload.
        measured: In the order in which they were measured.
        idle: Likewise.
        problems: What went wrong; the figures of such a run are not to be trusted.
        left_out: What was wanted and could not be had, and why.
        peers: Name -> version of the further peers.
    """

    command: str
    machine: Machine
    rounds: int
    seconds: float
    measured: list[Measured] = []
    idle: list[IdleMemory] = []
    problems: list[str] = []
    left_out: list[str] = []
    peers: dict[str, str] = {}

    @property
    def others(self) -> list[str]:
        """The further peers that were measured, in the order of their columns."""
        seen = {one.gateway for one in self.measured}
        return [name for name in self.peers if name in seen]
