"""The backends of the soak: model servers that are killed, stalled and started again."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from benchmarks.gateways import free_port

FAULTS = ("killed", "stalled", "restarted")
DOWN_S = 15.0
"""How long a backend is away, or silent; less when faults follow on one another faster."""


class SoakBackend:
    """One model server on a port that stays its own.

    Args:
        program: The model server.

    Attributes:
        port: Its port.
    """

    def __init__(self, program: Path) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            [str(self._program), str(self.port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def kill(self) -> None:
        """Kill it; its connections are reset."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def stall(self) -> None:
        """Have it do nothing, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo `stall`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Faults:
    """One fault after the other, each at another backend, until it is stopped.

    Args:
        backends: Where they happen.
        every_s: How often.
        random: Chooses.
        say: Told of each.

    Attributes:
        happened: What happened.
    """

    def __init__(
        self,
        backends: Sequence[SoakBackend],
        every_s: float,
        random: Random,
        say: Callable[[str], None],
    ) -> None:
        self._backends = backends
        self._every_s = every_s
        self._random = random
        self._say = say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.happened: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        down_s = min(DOWN_S, self._every_s / 2)
        while not self._over.wait(self._every_s - down_s):
            fault = FAULTS[len(self.happened) % len(FAULTS)]
            number = self._random.randrange(len(self._backends))
            backend = self._backends[number]
            self.happened.append(f"{fault} backend {number}")
            self._say(f"{fault} backend {number}")
            if fault == "stalled":
                backend.stall()
                self._over.wait(down_s)
                backend.go_on()
            else:
                backend.kill()
                if fault == "killed":
                    self._over.wait(down_s)
                backend.start()
                if fault == "restarted":
                    self._over.wait(down_s)
