"""The process itself."""

from __future__ import annotations

import os
import resource

import pytest

from llmproxy.metrics.process import watch_process
from tests.metrics.counting import make_metrics, samples


def test_what_the_system_tells() -> None:
    """Each number is that of this process."""
    metrics = make_metrics()
    watch_process(metrics, lambda: 1234.5)
    seen = samples(metrics)
    assert seen["process_start_time_seconds"] == 1234.5
    assert seen["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert 0 < seen["process_cpu_seconds_total"] <= used.ru_utime + used.ru_stime + 1
    assert 1e6 < seen["process_resident_memory_bytes"] <= used.ru_maxrss * 1024 * 1.5


def test_open_files() -> None:
    """One more is one more."""
    metrics = make_metrics()
    watch_process(metrics, lambda: 0.0)
    before = samples(metrics)["process_open_fds"]
    opened = os.open(os.devnull, os.O_RDONLY)
    try:
        assert samples(metrics)["process_open_fds"] == before + 1
    finally:
        os.close(opened)


def test_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    """What it does not tell is not served."""
    monkeypatch.setattr("llmproxy.metrics.process._PROC", tmp_path)
    metrics = make_metrics()
    watch_process(metrics, lambda: 0.0)
    assert set(samples(metrics)) == {
        "process_start_time_seconds",
        "process_max_fds",
        "process_cpu_seconds_total",
    }
