"""What watches an answer's bytes as they pass: meter, withholder, line scanner, relay.

Recorded streams, mutated and cut anywhere. The word of a case tells how the answer ended
(``whole`` or ``cut``), or that it is a ``plain`` one.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence

import attrs
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed

from llmproxy.values import MeterReading
from llmproxy.wire.sse import LineScanner, data_payloads
from llmproxy.wire.withhold import HELD_LIMIT_BYTES, UsageWithholder
from tests import recorded
from tests.fuzz.case import Case, Difference, Part, mutated, random_cuts
from tests.fuzz.edge_target import compare
from tests.proxy.metering import CHAT, MESSAGES, RESPONSES
from tests.proxy.metering import read as metered
from tests.proxy.test_relay import Relaying

USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'

TOKENS: tuple[bytes, ...] = (
    b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"\xef\xbb\xbf", b"\xc3", b"\0", b" ",
    b"data:", b"data: ", b"\ndata: ", b": comment", b":\n\n", b"event: x\n",
    b"id: 1\n", b"retry: 1\n",
    b"data: [DONE]\n\n", b"[DONE]", USAGE, USAGE.replace(b"\n", b"\r\n"),
    USAGE.replace(b"\n", b"\r"),
    b'data: {"choices":[],\ndata: "usage":{}}\n\n',
    b'data: {"usage":{"prompt_tokens":1},"choices":[]}',
    b'"usage"', b'"usage":{', b'"usage":null', b'"usage" : {"prompt_tokens":1}', b'"choices":[]',
    b'"choices":[ ]', b'"choices":[{', b'"choices":', b'"finish_reason":"stop"', b'"error"',
    b'"error":{"message":"x"}', b'"name":"f"', b'"content":"a"', b'"content":""', b'"text":"x"',
    b'"arguments":"{"', b'"reasoning":"x"', b"{", b"}", b"[", b"]", b'"', b'\\"', b"\\ud83d", b",",
    b'data: {"error":{"message":"died"}}\n\n', b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"length"}]}\n\n', b"data: null\n\n",
    b'event: response.output_text.delta\n', b'"delta":"a"', b'"type":"function_call","name":"f"',
    b'data: {"type":"response.completed","response":{"usage":{"input_tokens":1}}}\n\n',
    b'data: {"type":"response.failed","response":{"error":{"code":"x"}}}\n\n',
    b'data: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n',
    b'data: {"type":"message_delta","delta":{"stop_reason":"x"},"usage":{"output_tokens":1}}\n\n',
    b'data: {"type":"message_stop"}\n\n', b'"partial_json":"{"', b'"thinking":"a"',
    b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}}]}\n\n',
)  # fmt: skip

SHORT_LINE_BYTES = 60

DIALECTS = (CHAT, RESPONSES, MESSAGES)

_LINE_END = re.compile(rb"\r\n|\r|\n")
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_DECENT = re.compile(rb"[\x20-\x7e]*\Z")
_STREAMS = tuple(
    recording.body
    for name in recorded.names()
    if (recording := recorded.load(name)).is_stream and recording.body
)
_PLAIN = tuple(
    recording.body
    for name in recorded.names()
    if not (recording := recorded.load(name)).is_stream and recording.body
)


def generate(rng: random.Random) -> Case:
    """Make an input."""
    kind = rng.random()
    if kind < 0.1:
        word, octets = "plain", rng.choice(_PLAIN)[:8000]
    else:
        word = "whole" if kind < 0.65 else "cut"
        octets = _stream(rng)
    if rng.random() < 0.7:
        octets = mutated(rng, octets, TOKENS)
    return Case((Part(octets, random_cuts(rng, octets)),), word, rng.randrange(1 << 30))


def _stream(rng: random.Random) -> bytes:
    way = rng.randrange(8)
    if way == 0:
        octets = b"".join(rng.choice(TOKENS) for _ in range(rng.randrange(1, 30)))
    else:
        # Some events of one recording, and now and then of another.
        octets = b""
        for _ in range(rng.choice((1, 1, 2))):
            events = re.split(rb"(?<=\n\n)", rng.choice(_STREAMS))
            start = rng.randrange(len(events))
            octets += b"".join(events[start : start + rng.randrange(1, 8)])
        octets = octets[:12_000]
        if way == 1:
            octets += USAGE
        elif way == 2:
            room = HELD_LIMIT_BYTES + rng.randrange(-len(USAGE) - 6, 6)
            octets += USAGE[:-3] + b" " * room + b"}\n\n"
    ending = rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r"))
    return octets if ending == b"\n" else octets.replace(b"\n", ending)


@attrs.frozen
class Watched:
    """What was seen of a stream.

    Attributes:
        readings: The meters', of each dialect.
        payloads: The scanner's.
        short: The lines of a scanner that takes only short ones, and how many were longer.
        passed: What came through the withholder.
    """

    readings: tuple[MeterReading, ...]
    payloads: tuple[bytes, ...]
    short: tuple[bytes | int, ...]
    passed: bytes


def outcome(reads: Sequence[bytes], *, complete: bool) -> Watched:
    """Feed these pieces; tell what was seen."""
    octets = b"".join(reads)
    scanner, withholder = LineScanner(), UsageWithholder()
    short_scanner = LineScanner(limit_bytes=SHORT_LINE_BYTES)
    short = b""
    blocks = []
    passed = []
    for read in reads:
        blocks.append(scanner.feed(read))
        short += short_scanner.feed(read)
        passed.append(withholder.feed(read))
    blocks.append(scanner.rest())
    short += short_scanner.rest()
    passed.append(withholder.end())
    if b"".join(blocks) != octets:
        raise Difference("the scanner loses bytes")
    if withholder.end() or withholder.holding:
        raise Difference("the withholder holds something after the end")
    return Watched(
        tuple(metered(list(reads), complete=complete, endpoint=one) for one in DIALECTS),
        tuple(payload for block in blocks for payload in data_payloads(block)),
        (*filter(None, _LINE_END.split(short)), short_scanner.skipped_lines),
        b"".join(passed),
    )


def relayed(reads: Sequence[bytes], *, complete: bool, withhold: bool) -> bytes:
    """Relay these pieces; give what the client got."""
    relaying = Relaying(withholder=UsageWithholder() if withhold else None)
    for read in reads:
        relaying.piece(read)
    relaying.end(None if complete else ResponseFailed([Failure(ConnectionLost())]))
    if len(relaying.ends) != 1 or relaying.clock.getDelayedCalls():
        raise Difference("a relay without an end")
    return relaying.request.output


# The withholder once more, the plain way


def events(stream: bytes) -> list[bytes]:
    """Split a stream into events with their blank lines; comments before one stand alone."""
    found: list[bytes] = []
    lines: list[bytes] = []
    for line in _LINE.findall(stream):
        lines.append(line)
        blank = not line.strip(b"\r\n")
        if blank or (line.startswith(b":") and len(lines) == 1):
            found.append(b"".join(lines))
            lines = []
    if lines:
        found.append(b"".join(lines))
    return found


def is_usage(event: bytes) -> bool | None:
    """Say whether an event is a usage chunk; None where readers of JSON may differ."""
    lines = [line.rstrip(b"\r\n") for line in _LINE.findall(event)]
    if len(lines) < 2 or lines[-1] or not event.endswith((b"\n", b"\r")):
        return False
    payload = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
    if b'"usage"' not in payload or b'"choices"' not in payload:
        return False
    if not all(_DECENT.match(line) for line in lines) or b"\\" in payload:
        return None
    if len(event) > HELD_LIMIT_BYTES - 4 or payload.count(b'"choices"') > 1:
        return None
    if not payload.lstrip(b" ").startswith(b"{") or payload.count(b'"usage"') > 1:
        return None
    try:
        chunk = json.loads(payload)
    except ValueError:
        return None
    return chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)


def check_withheld(stream: bytes, passed: bytes) -> None:
    """Raise if what passed is not the stream without its usage chunks."""
    at = 0
    for event in events(stream):
        usage = is_usage(event)
        stays = passed.startswith(event, at)
        if usage is False and not stays:
            raise Difference("an event is withheld that is no usage chunk", repr(event))
        if usage is True and stays and event in (USAGE, *TOKENS):
            raise Difference("a usage chunk passes", repr(event))
        if stays:
            at += len(event)
    if at != len(passed):
        raise Difference("what passes the withholder is not the stream", repr(passed[at:]))


def check(case: Case) -> None:
    """Raise if something does not hold."""
    (part,) = case.parts
    complete = case.word != "cut"
    if case.word == "plain":
        for endpoint in DIALECTS:
            seen = [
                metered(list(reads), stream=False, endpoint=endpoint)
                for reads in (part.whole, part.reads)
            ]
            if seen[0] != seen[1]:
                raise Difference("a plain reading differs by the cutting", f"{seen[0]} {seen[1]}")
        return
    wanted = outcome(part.whole, complete=complete)
    compare(wanted, outcome(part.reads, complete=complete), "by the cutting")
    check_withheld(part.octets, wanted.passed)
    for withhold in (False, True):
        out = relayed(part.reads, complete=complete, withhold=withhold)
        if out != relayed(part.whole, complete=complete, withhold=withhold):
            raise Difference("what is relayed differs by the cutting")
        if complete:
            if out != (wanted.passed if withhold else part.octets):
                raise Difference("the relay changes the stream")
        elif not _ends_with_error(out):
            raise Difference("a cut stream without a readable error at its end", repr(out[-300:]))


def _ends_with_error(out: bytes) -> bool:
    last = events(out)[-1]
    if not last.startswith(b"data: {") or not last.endswith(b"\n\n"):
        return False
    return bool(json.loads(last[6:])["error"]["type"] == "server_error")
