"""The daemon's own log, line by line."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any, Literal

import pytest
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.logs.runtime import LineObserver, make_observer

Format = Literal["json", "text"]
Level = Literal["debug", "info", "warning", "error"]


def logger(
    line_format: Format, level: Level = "info", namespace: str = "llmproxy.x"
) -> tuple[Logger, StringIO]:
    """Make a logger, and the file that it writes to."""
    file = StringIO()
    return Logger(namespace, observer=make_observer(file, line_format, level)), file


def event(**more: Any) -> dict[str, Any]:
    """Make an event by hand, with a time that is known."""
    return {"log_time": 1_700_000_000.0625, "log_format": "said {what}", "what": "this", **more}


def test_text_line() -> None:
    """Time, level, source and message."""
    file = StringIO()
    LineObserver(file, "text")(event(log_namespace="llmproxy.x"))
    assert file.getvalue() == "2023-11-14T22:13:20.062Z info     llmproxy.x: said this\n"


def test_json_line() -> None:
    """The same as an object."""
    file = StringIO()
    LineObserver(file, "json")(event(log_namespace="llmproxy.x"))
    assert file.getvalue() == (
        '{"time":"2023-11-14T22:13:20.062Z","level":"info","source":"llmproxy.x",'
        '"message":"said this"}\n'
    )


def test_an_event_without_anything() -> None:
    """It makes a line as well."""
    file = StringIO()
    LineObserver(file, "text")({})
    assert file.getvalue() == "1970-01-01T00:00:00.000Z info     -: \n"


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warn", "error", "critical"]),
        ("info", ["info", "warn", "error", "critical"]),
        ("warning", ["warn", "error", "critical"]),
        ("error", ["error", "critical"]),
    ],
)
def test_levels(level: Level, written: list[str]) -> None:
    """That level and above."""
    log, file = logger("json", level)
    for call in (log.debug, log.info, log.warn, log.error, log.critical):
        call("said")
    assert [json.loads(line)["level"] for line in file.getvalue().splitlines()] == written


@pytest.mark.parametrize(("level", "count"), [("debug", 2), ("info", 1), ("warning", 1)])
@pytest.mark.parametrize(
    "namespace", ["twisted.internet.protocol.Factory", "llmproxy.site.EdgeSite"]
)
def test_chatter(level: Level, count: int, namespace: str) -> None:
    """Twisted's tales of factories and ports are for debugging only; its warnings are not."""
    log, file = logger("text", level, namespace)
    log.info("Starting factory")
    log.warn("Trouble")
    assert len(file.getvalue().splitlines()) == count


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_messages_of_several_lines(end: str) -> None:
    """In text, what follows is indented: it cannot pass for a line of its own."""
    log, file = logger("text")
    log.info("one{end}2023-11-14T22:13:20.062Z error    forged: two", end=end)
    first, second = file.getvalue().splitlines()
    assert first.endswith(" info     llmproxy.x: one")
    assert second == "    2023-11-14T22:13:20.062Z error    forged: two"
    log, file = logger("json")
    log.info("one{end}two", end=end)
    assert file.getvalue().count("\n") == 1
    assert json.loads(file.getvalue())["message"] == f"one{end}two"


def test_failures() -> None:
    """They come with their traceback."""

    def fail() -> None:
        raise ZeroDivisionError("by nothing")

    formats: tuple[Format, ...] = ("json", "text")
    for line_format in formats:
        log, file = logger(line_format)
        try:
            fail()
        except ZeroDivisionError:
            log.failure("it failed with {code}", failure=Failure(), code=7)
        if line_format == "json":
            line = json.loads(file.getvalue())
            assert (line["level"], line["message"]) == ("critical", "it failed with 7")
            trace = line["traceback"]
        else:
            first, *rest = file.getvalue().splitlines()
            assert first.endswith(" critical llmproxy.x: it failed with 7")
            assert all(line.startswith("    ") for line in rest)
            trace = "\n".join(rest)
        assert "ZeroDivisionError: by nothing" in trace
        assert "in fail" in trace


def test_a_message_that_cannot_be_formatted() -> None:
    """It is still a line, and no exception."""
    log, file = logger("text")
    log.info("said {what.missing}", what=1)
    assert len(file.getvalue().splitlines()) == 1
    assert "said {what.missing}" in file.getvalue()


def test_each_line_is_out_at_once() -> None:
    """A daemon that dies has said what it said."""
    flushed: list[str] = []

    class Counted(StringIO):
        def flush(self) -> None:
            flushed.append(self.getvalue())

    observer = LineObserver(Counted(), "text")
    observer(event())
    assert len(flushed) == 1
    assert flushed[0].endswith("said this\n")
