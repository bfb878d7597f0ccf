"""The daemon's own log, line by line."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from io import StringIO
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from twisted.logger import LogBeginner, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from llmproxy.interfaces import ILogSink
from llmproxy.logs.redaction import Redactor
from llmproxy.logs.runtime import LineFormat, LineObserver, make_observer
from llmproxy.logs.streams import StreamSink
from llmproxy.usage.log_sink import LogSink
from llmproxy.values import LogLine

Level = Literal["debug", "info", "warning", "error"]


def logger(
    line_format: LineFormat, level: Level = "info", namespace: str = "llmproxy.x"
) -> tuple[Logger, StringIO]:
    """Make a logger, and the file that it writes to."""
    file = StringIO()
    return Logger(
        namespace, observer=make_observer(StreamSink(file), line_format, level, str)
    ), file


def event(**more: Any) -> dict[str, Any]:
    """Make an event by hand, with a time that is known."""
    return {"log_time": 1_700_000_000.0625, "log_format": "said {what}", "what": "this", **more}


def test_text_line() -> None:
    """Time, level, source and message."""
    file = StringIO()
    LineObserver(StreamSink(file), "text", str)(event(log_namespace="llmproxy.x"))
    assert file.getvalue() == "2023-11-14T22:13:20.062Z info     llmproxy.x: said this\n"


def test_json_line() -> None:
    """The same as an object."""
    file = StringIO()
    LineObserver(StreamSink(file), "json", str)(event(log_namespace="llmproxy.x"))
    assert file.getvalue() == (
        '{"time":"2023-11-14T22:13:20.062Z","level":"info","source":"llmproxy.x",'
        '"message":"said this"}\n'
    )


def test_the_request_that_an_event_is_about() -> None:
    """Its id stands in the line, and goes with it."""
    lines: list[LogLine] = []

    @implementer(ILogSink)
    class Kept:
        def write(self, given: Sequence[LogLine]) -> None:
            lines.extend(given)

    formats: tuple[LineFormat, ...] = ("text", "json", "bare")
    for line_format in formats:
        LineObserver(Kept(), line_format, str)(
            event(log_namespace="llmproxy.x", log_level=LogLevel.warn, request_id="req-1")
        )
    assert [line.text for line in lines] == [
        "2023-11-14T22:13:20.062Z warn     llmproxy.x [req-1]: said this\n",
        '{"time":"2023-11-14T22:13:20.062Z","level":"warn","source":"llmproxy.x",'
        '"message":"said this","request_id":"req-1"}\n',
        "said this\n",
    ]
    assert {line[1:] for line in lines} == {(4, "req-1", "llmproxy.x")}


def test_an_event_without_anything() -> None:
    """It makes a line as well."""
    file = StringIO()
    LineObserver(StreamSink(file), "text", str)({})
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


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_usage_at_any_level(level: Level) -> None:
    """A reporter of type ``log`` delivers what it is given."""
    log, file = logger("text", level, f"{LogSink.__module__}.{LogSink.__name__}")
    log.info("usage {record}", record="{}")
    assert len(file.getvalue().splitlines()) == 1


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

    formats: tuple[LineFormat, ...] = ("json", "text")
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

    observer = LineObserver(StreamSink(Counted()), "text", str)
    observer(event())
    assert len(flushed) == 1
    assert flushed[0].endswith("said this\n")


SECRET = 'p4ssw0rd/with "quotes" and Ümlaut'


def test_no_line_holds_a_secret_whoever_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither our own events nor those of libraries: prints, warnings, logging, failures."""
    formats: tuple[LineFormat, ...] = ("json", "text", "bare")
    for line_format in formats:
        file, publisher = StringIO(), LogPublisher()
        # As twistd begins: what is printed or warned of by anybody becomes an event.
        streams = SimpleNamespace(stdout=StringIO(), stderr=StringIO())
        beginner = LogBeginner(publisher, StringIO(), streams, warnings)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            beginner.beginLoggingTo(
                [make_observer(StreamSink(file), line_format, "debug", Redactor([SECRET]))]
            )
            monkeypatch.setattr("sys.stderr", streams.stderr)
            log = Logger("a.library", observer=publisher)
            log.info("connecting with {dsn}", dsn=f"host=db password={SECRET}")
            log.info("sent {fields!r}", fields={"authorization": SECRET.encode()})
            log.info("about", request_id=SECRET)
            try:
                raise ValueError(f"{SECRET} is wrong")
            except ValueError:
                log.failure("failed")
            streams.stdout.write(f"printed {SECRET}\n")
            logging.lastResort.handle(  # type: ignore[union-attr]
                logging.LogRecord("other", 40, "", 0, "logged %s", (json.dumps(SECRET),), None)
            )
            warnings.warn(f"warned of {SECRET}", stacklevel=1)
            monkeypatch.undo()
        written = file.getvalue()
        for said in ("connecting", "sent", "failed", "printed", "logged", "warned of"):
            assert said in written
        assert "p4ssw0rd" not in written
        assert written.count("(hidden)") >= 6
