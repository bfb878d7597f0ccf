"""When a backend counts as up, down or loading: arithmetic on the results of its checks.

Pure. It knows nothing of how a check is made.
"""

from __future__ import annotations

from typing import Literal

import attrs

Result = Literal["passed", "failed", "loading"]
Health = Literal["up", "down", "loading"]


@attrs.define
class HealthThresholds:
    """The state of one backend, moved by the results of its checks.

    ========  ===========================  =======================  ==========
    state     passed                       failed                   loading
    ========  ===========================  =======================  ==========
    up        up                           down at the n-th in row  loading
    down      up at the m-th in row        down                     loading
    loading   up                           down at the n-th in row  loading
    ========  ===========================  =======================  ==========

    Attributes:
        unhealthy_threshold: Failures in a row that take it out (n).
        healthy_threshold: Passes in a row that bring it back (m).
        health: The state; up before the first check.
    """

    unhealthy_threshold: int
    healthy_threshold: int
    health: Health = "up"
    _passed: int = attrs.field(default=0, init=False)
    _failed: int = attrs.field(default=0, init=False)

    def observe(self, result: Result) -> bool:
        """Take the result of one check.

        Returns:
            Whether `health` is another now.
        """
        before = self.health
        self._passed = self._passed + 1 if result == "passed" else 0
        self._failed = self._failed + 1 if result == "failed" else 0
        if result == "loading":
            self.health = "loading"
        elif self.health == "loading" and result == "passed":
            self.health = "up"
        elif self._failed >= self.unhealthy_threshold:
            self.health = "down"
        elif self._passed >= self.healthy_threshold:
            self.health = "up"
        return self.health != before
