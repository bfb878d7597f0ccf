"""Tests of the usage chunk's removal."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmproxy.wire.withhold import HELD_LIMIT_BYTES, UsageWithholder
from tests import recorded
from tests.wire.test_sse import SIZES, chop

USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":1}}\n\n'
TEXT = b'data: {"id":"x","choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def passed(pieces: list[bytes]) -> bytes:
    """Feed the pieces and return all that passed."""
    withholder = UsageWithholder()
    return b"".join(withholder.feed(piece) for piece in pieces) + withholder.end()


@pytest.mark.parametrize(
    "event",
    [
        USAGE,
        USAGE.replace(b"\n", b"\r\n"),
        USAGE.replace(b"\n", b"\r"),
        b'data:{"choices": [ ] ,"usage" :{}}\n\n',
        b'data: {"usage":{"a":[{}]},"choices":[],"timings":{"x":[1]}}\n\n',
        b'event: message\nid: 7\ndata: {"choices":[],"usage":{}}\nretry: 1\n\n',
        b'data: {"choices":[],"usage":null,"usage":{}}\n\n',
        b'data: {"choices":[],\ndata: "usage":{}}\n\n',
        b'data: {"choices":[],"usage":{}}\n: comment\n\n',
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_removed(event: bytes, size: int) -> None:
    """A usage chunk is removed with its blank line; its neighbours stay."""
    stream = TEXT + event + DONE
    assert passed(chop(stream, [size])) == TEXT + DONE


@pytest.mark.parametrize(
    "event",
    [
        TEXT,
        DONE,
        b"\n",
        b": keep-alive\n\n",
        b': {"choices":[],"usage":{}}\n\n',
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[],"usage":[]}\n\n',
        b'data: {"choices":[],"usage":1}\n\n',
        b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
        b'data: {"choices":null,"usage":{}}\n\n',
        b'data: {"usage":{}}\n\n',
        b'data: {"choices":[{}],"usage":{}}\n\n',
        b'data: {"choices":[{"text":"\\"choices\\":[],\\"usage\\":{}"}],"usage":null}\n\n',
        b'data: {"choices":[],"usage":{}\n\n',
        b'data: [{"choices":[],"usage":{}}]\n\n',
        b'data: {"x":{"choices":[],"usage":{}}}\n\n',
        b'dat: {"choices":[],"usage":{}}\n\n',
        b'event: {"choices":[],"usage":{}}\n\n',
        b'data: {"error":{"message":"\\"usage\\""}}\n\n',
        b'data: {"choices":[],"usage":{},"x":"' + b"x" * HELD_LIMIT_BYTES + b'"}\n\n',
    ],
)
@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_kept(event: bytes, size: int) -> None:
    """Every other event passes as it is."""
    stream = TEXT + event + TEXT + DONE
    assert passed(chop(stream, [size])) == stream


@pytest.mark.parametrize(
    "piece", [TEXT, TEXT * 3, DONE, b": c\n\n", b"\n\n", TEXT.replace(b"\n", b"\r\n"), TEXT[:-10]]
)
def test_unchanged_pieces_are_not_copied(piece: bytes) -> None:
    """A piece that passes whole is the very same object."""
    withholder = UsageWithholder()
    assert withholder.feed(TEXT) is TEXT
    assert withholder.feed(piece) is piece


def test_usage_null_is_not_copied_either() -> None:
    """Events that carry a null usage pass as they are."""
    withholder = UsageWithholder()
    piece = TEXT.replace(b"}]}", b'}],"usage":null}')
    assert withholder.feed(piece) is piece


@pytest.mark.parametrize(
    ("beginning", "held"),
    [
        (b"d", True),
        (b"data: ", True),
        (b"data: {", True),
        (b'data: {"id":"x","choices":', True),
        (b'data: {"id":"x","choices":[ ', True),
        (b'data: {"id":"x","choices":[]', True),
        (b'data: {"id":"x","choices":[{', False),
        (b"data: [", False),
        (b"data: [DONE]", False),
        (b"data: null", False),
        (b": keep", False),
        (b"event: x\n", True),
        (b"event: x\ndata: 1", False),
        (b"\r", False),
        (b"data: {" + b" " * HELD_LIMIT_BYTES, False),
    ],
)
def test_held_only_while_it_may_be_usage(beginning: bytes, held: bool) -> None:
    """An unfinished event is held as long as it may be the usage chunk, and then given at once."""
    withholder = UsageWithholder()
    assert withholder.feed(beginning) == (b"" if held else beginning)
    assert withholder.end() == (beginning if held else b"")
    assert withholder.end() == b""


def test_after_a_release_the_rest_of_the_event_passes() -> None:
    """Once an event is known to be another its rest passes, and the next is looked at again."""
    withholder = UsageWithholder()
    assert withholder.feed(b'data: {"choices":') == b""
    assert withholder.feed(b'[{"x":"') == b'data: {"choices":[{"x":"'
    assert withholder.feed(b'a"}],"usage":') == b'a"}],"usage":'
    assert withholder.feed(b"{}}\n") == b"{}}\n"
    assert withholder.feed(b"\n" + USAGE + b"data") == b"\n"
    assert withholder.feed(b": 1\n\n") == b"data: 1\n\n"


def test_a_slow_long_event_takes_little_time() -> None:
    """Byte by byte an event up to the limit is given on unchanged."""
    stream = b'data: {"x":"' + b"x" * (HELD_LIMIT_BYTES - 100) + b'"}\n\n'
    assert passed(chop(stream, [1])) == stream


_EVENTS = st.lists(
    st.sampled_from(
        [USAGE, TEXT, DONE, b": c", b"data: ", b'{"choices":[', b"]", b',"usage":{}}', b"event: x"]
    )
    | st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"x", b"\xc3"]),
    max_size=24,
).map(b"".join)


@given(stream=_EVENTS, sizes=SIZES)
@example(stream=USAGE[:-1] + b"\r\n\r\n", sizes=[1])
@example(stream=USAGE + b"\r\n", sizes=[1])
def test_any_chunking_gives_the_same(stream: bytes, sizes: list[int]) -> None:
    """However a stream is cut, the same bytes pass, LF, CR and CRLF alike."""
    assert passed(chop(stream, sizes)) == passed([stream])


@given(
    events=st.lists(st.sampled_from([USAGE, TEXT, DONE, b": c\n\n", b"event: x\ndata: 1\n\n"])),
    ending=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    sizes=SIZES,
)
def test_exactly_the_usage_events_go(events: list[bytes], ending: bytes, sizes: list[int]) -> None:
    """What passes is the stream without its usage chunks."""
    stream = b"".join(events).replace(b"\n", ending)
    wanted = b"".join(event for event in events if event != USAGE).replace(b"\n", ending)
    assert passed(chop(stream, sizes)) == wanted


def without_usage(body: bytes) -> bytes:
    """Drop the usage chunks from a body with LF line ends, the plain way."""
    kept = []
    for event in re.split(rb"(?<=\n\n)", body):
        try:
            data = json.loads(event.removeprefix(b"data: "))
        except ValueError:
            data = None
        is_usage = isinstance(data, dict) and data.get("choices") == []
        if not (is_usage and isinstance(data.get("usage"), dict)):
            kept.append(event)
    return b"".join(kept)


@pytest.mark.parametrize(
    "name", [name for name in recorded.names() if recorded.load(name).is_stream]
)
def test_recorded_streams(name: str) -> None:
    """Every recorded stream passes without its usage chunks, at any chunking."""
    recording = recorded.load(name)
    body = recording.body
    wanted = without_usage(body)
    assert passed(list(recording.pieces)) == wanted
    assert passed([body]) == wanted
    assert passed(chop(body, random.Random(name).choices(range(1, 600), k=20))) == wanted
    if len(body) < 15_000:
        assert passed(chop(body, [7])) == wanted
    if len(body) < 5_000:
        assert passed(chop(body, [1])) == wanted


def test_recordings_have_usage_chunks_to_remove() -> None:
    """The comparison above is not empty: several recordings lose an event, most lose none."""
    bodies = [recorded.load(name).body for name in recorded.names() if "_stream" in name]
    changed = [body for body in bodies if without_usage(body) != body]
    assert 10 < len(changed) < len(bodies) - 10
