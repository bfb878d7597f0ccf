"""Requests that are wrong in small ways: a good one and what smugglers do to its bytes.

A `Draft` is a request in the pieces that its mutations take hold of; `wires` draws one, mutates it
and gives its bytes. Nothing here says what the right answer to any of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from hypothesis import strategies as st

from tests.daemon import KEY

TARGET = b"/v1/chat/completions"

CANARY = b"canary"
"""The value of an unknown field that must pass unchanged."""


@attrs.define
class Draft:
    """A request in pieces.

    Attributes:
        method: The method.
        target: The target.
        version: The protocol's name and version.
        lines: The field lines, without their ends.
        ends: What ends the request line, then each field line, then the empty line.
        body: The body as it is framed.
        content: The body.
        chunked: Whether it is framed in chunks.
        tail: What follows the request.
    """

    method: bytes = b"POST"
    target: bytes = TARGET
    version: bytes = b"HTTP/1.1"
    lines: list[bytes] = attrs.field(factory=list)
    ends: dict[int, bytes] = attrs.field(factory=dict)
    body: bytes = b""
    content: bytes = b""
    chunked: bool = False
    tail: bytes = b""

    def raw(self) -> bytes:
        """Give the bytes."""
        first = b" ".join(part for part in (self.method, self.target, self.version) if part)
        lines = [first, *self.lines, b""]
        ended = (line + self.ends.get(number, b"\r\n") for number, line in enumerate(lines))
        return b"".join(ended) + self.body + self.tail


def content_for(model: str) -> bytes:
    """Write the JSON of a chat request."""
    return b'{"model":"%b","messages":[{"role":"user","content":"h\xc3\xa9"}]}' % model.encode()


def second_request(content: bytes, target: bytes = TARGET) -> bytes:
    """Write a good request, to be smuggled in or to be pipelined."""
    return (
        b"POST %b?second HTTP/1.1\r\nHost: gateway.test\r\nX-API-Key: %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (target, KEY.encode(), len(content), content)
    )


Mutation = Callable[[st.DrawFn, Draft], None]


def one_of(draw: st.DrawFn, *choices: bytes) -> bytes:
    """Draw one of them."""
    return draw(st.sampled_from(choices))


# framing

LENGTHS: tuple[bytes, ...] = (
    b"%d", b"+%d", b"-%d", b"0%d", b"00000000000000000000%d", b" %d ", b"\t%d\t", b"%d, %d",
    b"%d,%d", b"%d,", b",%d", b"%d 0", b"%d.0", b"%de0", b"0x%x", b"%x", b"%d\x0b", b"\x0c%d",
    b"%d_0", b"%d;a", b'"%d"', b"%d\x00", b"%d\xa0", b"", b"0", b"1", b"-0", b"9" * 19, b"9" * 21,
    b"18446744073709551616", b"18446744073709551%d", b"\xef\xbc\x91",
)  # fmt: skip

LENGTH_NAMES = (
    b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"Content-Length ", b" Content-Length",
    b"Content_Length", b"Content-Length\t", b"Content-Length\x00", b"Content\x00-Length",
    b"Content-Length:", b"X: y\rContent-Length", b"X: y\nContent-Length", b"Content-Lengt\xe8",
)  # fmt: skip

CODINGS = (
    b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"chunked ", b"\tchunked\t", b"\x0bchunked",
    b"\x0cchunked", b"chunked\x0b", b"\xa0chunked", b"chunked,", b",chunked", b", ,chunked",
    b"chunked, identity", b"identity, chunked", b"identity", b"gzip", b"gzip, chunked",
    b"chunked, gzip", b"chunked, chunked", b"chunked chunked", b"chunked;q=1", b"chunked; a",
    b'"chunked"', b"'chunked'", b"xchunked", b"chunkedx", b"chunke", b"chunk", b"chunked\x00", b"",
    b"none", b"chun\r\n ked",
)  # fmt: skip

CODING_NAMES = (
    b"Transfer-Encoding", b"transfer-encoding", b"TRANSFER-ENCODING", b"Transfer-Encoding ",
    b" Transfer-Encoding", b"\tTransfer-Encoding", b"Transfer_Encoding", b"Transfer-Encoding\t",
    b"Transfer\x00-Encoding", b"Transfer-Encoding\x00", b"Transfer Encoding",
    b"X: y\rTransfer-Encoding", b"X: y\nTransfer-Encoding", b"X: y\r\rTransfer-Encoding",
    b"Transfer-Encoding\x0b", b"X-Transfer-Encoding",
)  # fmt: skip


def _length(draw: st.DrawFn, content: bytes) -> bytes:
    pattern = one_of(draw, *LENGTHS)
    size = len(content) + draw(st.sampled_from((0, 0, 0, -1, 1, -2, 2, 10)))
    return pattern % ((size,) * pattern.count(b"%"))


def _index(draft: Draft, *names: bytes) -> int | None:
    for number, line in enumerate(draft.lines):
        if line.partition(b":")[0].strip().lower() in names:
            return number
    return None


def other_length(draw: st.DrawFn, draft: Draft) -> None:
    """Write the length in another way, or write another length."""
    at = _index(draft, b"content-length")
    if at is not None:
        draft.lines[at] = b"Content-Length: " + _length(draw, draft.content)


def further_length(draw: st.DrawFn, draft: Draft) -> None:
    """Say a length once more, beside whatever framing there is."""
    line = one_of(draw, *LENGTH_NAMES) + b": " + _length(draw, draft.content)
    draft.lines.insert(draw(st.integers(0, len(draft.lines))), line)


def further_coding(draw: st.DrawFn, draft: Draft) -> None:
    """Say a coding (once more), beside whatever framing there is."""
    line = one_of(draw, *CODING_NAMES) + one_of(draw, b": ", b":") + one_of(draw, *CODINGS)
    draft.lines.insert(draw(st.integers(0, len(draft.lines))), line)


def other_coding(draw: st.DrawFn, draft: Draft) -> None:
    """Write the coding in another way."""
    at = _index(draft, b"transfer-encoding")
    if at is not None:
        draft.lines[at] = one_of(draw, *CODING_NAMES) + b": " + one_of(draw, *CODINGS)


CHUNK_SIZES: tuple[bytes, ...] = (
    b"%x", b"%X", b"0%x", b"000000000000000%x", b"0000000000000000000000000%x", b"0x%x", b"+%x",
    b"-%x", b" %x", b"%x ", b"\t%x", b"%x\t", b"%x;a", b"%x;a=b", b'%x;a="b;c"', b'%x;a="\r\n"',
    b"%x; a = b", b"%x ;a", b"%x;", b"%x;\x00", b"%x;a\nb", b"%x;a\rb", b"%x,", b"%x.0", b"%xg",
    b"10000000000000000%x", b"ffffffffffffffff", b"%x\x0b", b"", b"%x;a=\xe9", b"%x%%3b", b"%x_0",
    b"%x;" + b"a" * 300,
)  # fmt: skip

CHUNK_ENDS = (
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\r\n\r\n",
    b"",
    b" \r\n",
)

LAST_CHUNKS = (
    b"0\r\n\r\n", b"00\r\n\r\n", b"0000000000000000000\r\n\r\n", b"0;a=b\r\n\r\n", b"-0\r\n\r\n",
    b"0x0\r\n\r\n", b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\r\n\r\n", b"0 \r\n\r\n", b"0\r\n",
    b"0\r\n\r", b"", b"\r\n", b"0\r\nX-Trailer: 1\r\n\r\n", b"0\r\nContent-Length: 3\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\nHost: evil.test\r\n\r\n", b"0\r\nX\r\n\r\n",
    b"0\r\nX : 1\r\n\r\n", b"0\r\nX: 1\r\n 2\r\n\r\n", b"0\r\nX: 1\n\r\n",
    b"0\r\nX: a\x00b\r\n\r\n",
    b"0\r\nX-Canary: trailer\r\n\r\n", b"0\r\nConnection: close\r\n\r\n", b"0\r\n: 1\r\n\r\n",
    b"0\r\nX-API-Key: trailer\r\n\r\n", b"0\r\n \r\n\r\n", b"0\r\nX: 1\r\n",
)  # fmt: skip


def _sizes(draw: st.DrawFn, content: bytes, odd: bool) -> bytes:
    """Frame a body in chunks, well or with one oddity."""
    cuts = sorted(draw(st.lists(st.integers(1, len(content) - 1), max_size=2, unique=True)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    strange = draw(st.integers(0, len(pieces) * 2)) if odd else -1
    framed = b""
    for number, piece in enumerate(pieces):
        size, end_of_size, end = b"%x", b"\r\n", b"\r\n"
        length = len(piece)
        if number * 2 == strange:
            size = one_of(draw, *CHUNK_SIZES)
            length += draw(st.sampled_from((0, 0, 0, 1, -1)))
        elif number * 2 + 1 == strange:
            end_of_size, end = one_of(draw, *CHUNK_ENDS), one_of(draw, *CHUNK_ENDS)
        said = size.replace(b"%%", b"\xff")
        said = said % ((max(length, 0),) * said.count(b"%"))
        framed += said.replace(b"\xff", b"%") + end_of_size + piece + end
    last = one_of(draw, *LAST_CHUNKS) if len(pieces) * 2 == strange else b"0\r\n\r\n"
    return framed + last


def odd_chunks(draw: st.DrawFn, draft: Draft) -> None:
    """Frame the chunks in another way."""
    if draft.chunked:
        draft.body = _sizes(draw, draft.content, odd=True)


def both_framings(draw: st.DrawFn, draft: Draft) -> None:
    """Frame it in both ways, with a request behind that only one of them sees."""
    at = _index(draft, b"content-length", b"transfer-encoding")
    if at is not None:
        del draft.lines[at]
    draft.body = one_of(draw, b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", draft.body)
    seen = draft.body + second_request(draft.content)
    length = draw(st.sampled_from((len(draft.body), len(seen), 4, 5, 6)))
    lines = [
        one_of(draw, *CODING_NAMES) + b": " + one_of(draw, *CODINGS),
        one_of(draw, *LENGTH_NAMES) + b": %d" % length,
    ]
    draft.lines += lines if draw(st.booleans()) else lines[::-1]
    draft.tail = second_request(draft.content)


def no_framing(draw: st.DrawFn, draft: Draft) -> None:
    """Say nothing of the body: it is a next request, and a bad one."""
    at = _index(draft, b"content-length", b"transfer-encoding")
    if at is not None:
        del draft.lines[at]
    if draw(st.booleans()):
        draft.body = b""


# field lines


def _any_line(draw: st.DrawFn, draft: Draft) -> int | None:
    return draw(st.integers(0, len(draft.lines) - 1)) if draft.lines else None


def odd_colon(draw: st.DrawFn, draft: Draft) -> None:
    """Put other white space around a colon, or something else in its place."""
    at = _any_line(draw, draft)
    if at is not None:
        name, _, value = draft.lines[at].partition(b":")
        colon = one_of(
            draw, b":", b" :", b"\t:", b":  ", b":\t", b" : ", b"::", b"", b" ", b"=", b"\x00:",
            b":\x0b", b"\r:", b":\r\n ", b":\x00",
        )  # fmt: skip
        draft.lines[at] = name + colon + value.strip()


def odd_case(draw: st.DrawFn, draft: Draft) -> None:
    """Change the case of a name or of a whole line."""
    at = _any_line(draw, draft)
    if at is not None:
        name, colon, value = draft.lines[at].partition(b":")
        whole = draw(st.booleans())
        draft.lines[at] = name.swapcase() + colon + (value.swapcase() if whole else value)


def repeat_line(draw: st.DrawFn, draft: Draft) -> None:
    """Say a line twice."""
    at = _any_line(draw, draft)
    if at is not None:
        draft.lines.insert(draw(st.integers(0, len(draft.lines))), draft.lines[at])


def drop_line(draw: st.DrawFn, draft: Draft) -> None:
    """Leave a line out."""
    at = _any_line(draw, draft)
    if at is not None:
        del draft.lines[at]


def shuffle_lines(draw: st.DrawFn, draft: Draft) -> None:
    """Put the lines in another order."""
    draft.lines = draw(st.permutations(draft.lines))


def fold_line(draw: st.DrawFn, draft: Draft) -> None:
    """Fold a line, before the first one as well."""
    at = _any_line(draw, draft)
    if at is not None:
        line = draft.lines[at]
        place = draw(st.integers(0, len(line)))
        fold = one_of(draw, b"\r\n ", b"\r\n\t", b"\n ", b"\r\n \r\n ", b"\r ")
        draft.lines[at] = line[:place] + fold + line[place:]


def stray_byte(draw: st.DrawFn, draft: Draft) -> None:
    """Put a byte where it does not belong."""
    at = _any_line(draw, draft)
    if at is not None:
        line = draft.lines[at]
        place = draw(st.integers(0, len(line)))
        stray = one_of(
            draw, b"\x00", b"\x01", b"\x0b", b"\x0c", b"\r", b"\n", b"\x1b", b"\x7f", b"\x80",
            b"\x85", b"\xa0", b"\xff", b" ", b"\t", b":", b",", b";", b'"', b"\xe2\x80\xa8",
        )  # fmt: skip
        draft.lines[at] = line[:place] + stray + line[place:]


def odd_end(draw: st.DrawFn, draft: Draft) -> None:
    """End a line in another way."""
    at = draw(st.integers(0, len(draft.lines) + 1))
    draft.ends[at] = one_of(
        draw, b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n", b"\r\n ", b"\x00\r\n"
    )


FURTHER_LINES = (
    b"Host: evil.test", b"Host: gateway.test", b"Host:", b"hOST: a b", b"Host: a, b",
    b"X: y", b"X:", b"X", b": y", b"", b" ", b"X\xc3\xa9: y", b"X: \xff",
    b"Expect: 100-continue", b"Expect: 100-Continue", b"Expect: 101-continue", b"Expect:",
    b"Expect: 100-continue, x",
    b"Connection: close", b"Connection: keep-alive", b"Connection: Content-Length",
    b"Connection: Transfer-Encoding", b"Connection: X-Canary", b"Connection: x-canary, Host",
    b"Connection: Authorization, X-API-Key", b"Connection: X-Forwarded-For, Via", b"Connection: ,",
    b"Connection: close, X-Request-ID", b"Connection: Content-Type", b"Connection: \"close\"",
    b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Upgrade: h2c", b"Upgrade:", b"Connection: upgrade",
    b"TE: trailers", b"TE: chunked", b"Trailer: Content-Length", b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive", b"Proxy-Authorization: Basic YTpi", b"Proxy-Foo: bar",
    b"Content_Length: 3", b"Transfer_Encoding: chunked", b"X_API_Key: a", b"X_Forwarded_For: a",
    b"X_Canary: a", b"Content-Length_: 3", b"CONTENT_LENGTH: 0",
    b"Forwarded: for=203.0.113.1", b"X-Forwarded-For: 203.0.113.1", b"X-Real-IP: 203.0.113.1",
    b"X-Forwarded-Host: evil.test", b"X-Forwarded-Proto: gopher", b"Via: 1.1 other",
    b"X-HTTP-Method-Override: DELETE", b"Accept-Encoding: gzip", b"Content-Encoding: identity",
    b"X-Request-ID: a b", b"X-Request-ID: one", b"Cookie: a=b\r\nCookie: c=d",
    b"Content-Type: text/plain", b"Max-Forwards: 0", b"HTTP2-Settings: AAMAAABkAAQAAP__",
)  # fmt: skip


def further_line(draw: st.DrawFn, draft: Draft) -> None:
    """Add a line that means something to somebody."""
    draft.lines.insert(draw(st.integers(0, len(draft.lines))), one_of(draw, *FURTHER_LINES))


# the request line and what follows


def odd_target(draw: st.DrawFn, draft: Draft) -> None:
    """Ask for something else, or for the same in another form."""
    draft.target = one_of(
        draw,
        TARGET + b"?a=%2F&b=%00+c", TARGET + b"?", TARGET + b"??", TARGET + b"?a#b", TARGET + b"#",
        TARGET + b'?"<>\\^`{|}', TARGET + b"?a b", TARGET + b"?\xc3\xa9", TARGET + b"?\x00",
        TARGET + b"?\x7f", TARGET + b"/", b"/" + TARGET, TARGET + b"/../embeddings",
        TARGET.replace(b"/", b"%2F"), TARGET[1:], b"*", b"", b"?", b"http://evil.test" + TARGET,
        b"http://evil.test:80" + TARGET + b"?q", b"HTTP://EVIL.test" + TARGET,
        b"https://[::1]:1" + TARGET, b"http://u:p@evil.test" + TARGET, b"http://" + TARGET,
        b"http:" + TARGET, b"ftp://evil.test" + TARGET, b"//evil.test" + TARGET,
        b"http://evil.test:99999999" + TARGET, b"http://evil.test?" + TARGET,
        b"http://evil.test\\@b" + TARGET, b"evil.test:443", TARGET + b" HTTP/1.1\r\nX: y",
        TARGET + b"?" + b"a" * 3000,
    )  # fmt: skip


def odd_version(draw: st.DrawFn, draft: Draft) -> None:
    """Speak another version, or so it looks."""
    draft.version = one_of(
        draw, b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.1 ", b"http/1.1",
        b"HTTP/01.1", b"HTTP/1.10", b"HTTP/11", b"HTTP/1.1\t", b"HTTP/1.1\x00", b"RTSP/1.0", b"",
        b"HTTP/1.1 HTTP/1.1", b" HTTP/1.1", b"ICE/1.0",
    )  # fmt: skip


def odd_method(draw: st.DrawFn, draft: Draft) -> None:
    """Do something else, or so it looks."""
    draft.method = one_of(
        draw, b"GET", b"HEAD", b"PUT", b"OPTIONS", b"TRACE", b"CONNECT", b"post", b"Post", b"POST ",
        b" POST", b"\r\nPOST", b"\nPOST", b"\r\n\r\nPOST", b"\tPOST", b"POSTS", b"P\x00OST", b"PRI",
        b"M-SEARCH", b"SOURCE", b"\x00POST", b"\rPOST", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST",
    )  # fmt: skip


def pipelined(draw: st.DrawFn, draft: Draft) -> None:
    """Let another request follow, good or not."""
    second = second_request(draft.content)
    draft.tail = one_of(
        draw, second, b"\r\n" + second, b"\n" + second, b"\r" + second, b"0\r\n\r\n" + second,
        b" " + second, second + second, second[:-5], b"\x00" + second, b"\r\n\r\n" + second,
        second.replace(b"POST", b"GET", 1), second.replace(b"Host: gateway.test\r\n", b""),
    )  # fmt: skip


MUTATIONS: tuple[Mutation, ...] = (
    other_length,
    further_length,
    other_coding,
    further_coding,
    odd_chunks,
    odd_chunks,
    both_framings,
    no_framing,
    odd_colon,
    odd_case,
    repeat_line,
    drop_line,
    shuffle_lines,
    fold_line,
    stray_byte,
    odd_end,
    further_line,
    further_line,
    odd_target,
    odd_version,
    odd_method,
    pipelined,
    pipelined,
)


@st.composite
def wires(draw: st.DrawFn, model: str = "m") -> bytes:
    """Draw the bytes of a request for a model, with none to three mutations."""
    content = content_for(model)
    chunked = draw(st.booleans())
    draft = Draft(content=content, chunked=chunked)
    draft.lines = [
        b"Host: gateway.test",
        b"X-API-Key: " + KEY.encode(),
        b"Content-Type: application/json",
        b"X-Canary: " + CANARY,
    ]
    if draw(st.booleans()):
        draft.lines += [b"Connection: X-Hop", b"X-Hop: 1"]
    if chunked:
        draft.lines.append(b"Transfer-Encoding: chunked")
        draft.body = _sizes(draw, content, odd=False)
    else:
        draft.lines.append(b"Content-Length: %d" % len(content))
        draft.body = content
    mutations: Sequence[Mutation] = draw(st.lists(st.sampled_from(MUTATIONS), max_size=3))
    for mutate in mutations:
        mutate(draw, draft)
    return draft.raw()
