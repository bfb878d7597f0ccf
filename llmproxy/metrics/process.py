"""The process itself: its processor time, memory and files, under Prometheus's usual names."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from llmproxy.metrics import catalogue
from llmproxy.metrics.registry import Metrics

_PROC = Path("/proc/self")


def watch_process(metrics: Metrics, now: Callable[[], float]) -> None:
    """Watch the process; its memory and files only where the system tells of them in ``/proc``.

    Args:
        metrics: Where.
        now: Seconds since the epoch.
    """
    started_s = now()
    metrics.watch(catalogue.PROCESS_START, lambda: started_s)
    metrics.watch(catalogue.PROCESS_CPU, time.process_time)
    metrics.watch(catalogue.PROCESS_MOST_FILES, _most_files)
    if (_PROC / "statm").exists():
        metrics.watch(catalogue.PROCESS_MEMORY, _resident_bytes)
        metrics.watch(catalogue.PROCESS_FILES, _open_files)


def _resident_bytes() -> float:
    pages = int((_PROC / "statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _open_files() -> float:
    return len(os.listdir(_PROC / "fd")) - 1  # one is what reads the folder


def _most_files() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
