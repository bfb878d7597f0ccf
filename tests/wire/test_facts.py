"""Tests of what is read of a request's body."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.errors import InvalidBody, InvalidJson
from llmproxy.values import RequestFacts
from llmproxy.wire.facts import read_facts
from tests import recorded


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (b'{"model":"a"}', RequestFacts("a")),
        (b' \r\n\t{ "model" : "a" } \n', RequestFacts("a")),
        (b'{"mod\\u0065l":"\\u00e9\xc3\xa9"}', RequestFacts("éé")),
        (b'{"model":"a","model":"b"}', RequestFacts("b")),
        (b'{"messages":[{"model":"x","stream":true}],"model":"a"}', RequestFacts("a")),
        (b'{"tools":[{"Model":1}],"Models":{"MODEL":1},"model":"a"}', RequestFacts("a")),
        (b'{"model":"a","stream":true}', RequestFacts("a", stream=True)),
        (b'{"model":"a","stream":false}', RequestFacts("a")),
        (b'{"model":"a","stream":null}', RequestFacts("a")),
        (b'{"model":"a","stream_options":null}', RequestFacts("a")),
        (b'{"model":"a","stream_options":{}}', RequestFacts("a")),
        (b'{"model":"a","stream_options":{"include_usage":null}}', RequestFacts("a")),
        (
            b'{"model":"a","stream_options":{"include_usage":true,"x":1}}',
            RequestFacts("a", include_usage=True),
        ),
        (
            b'{"model":"a","stream_options":{"include_usage":false}}',
            RequestFacts("a", include_usage=False),
        ),
        (b'{"model":"a","max_tokens":7}', RequestFacts("a", max_tokens=7)),
        (b'{"model":"a","max_completion_tokens":8}', RequestFacts("a", max_tokens=8)),
        (b'{"model":"a","max_output_tokens":9}', RequestFacts("a", max_tokens=9)),
        (b'{"model":"a","max_output_tokens":9,"max_tokens":7}', RequestFacts("a", max_tokens=7)),
        (
            b'{"model":"a","max_tokens":7,"max_completion_tokens":8}',
            RequestFacts("a", max_tokens=8),
        ),
        (
            b'{"model":"a","max_tokens":7,"max_completion_tokens":null}',
            RequestFacts("a", max_tokens=7),
        ),
    ],
)
def test_facts(body: bytes, facts: RequestFacts) -> None:
    """The facts are found wherever and however they are spelled."""
    assert read_facts(body) == facts


@pytest.mark.parametrize(
    "value", [b'"7"', b"true", b"-1", b"1.5", b"1e3", b"[]", b"{}", b"null", b"9" * 400, b"1e999"]
)
def test_wrong_max_tokens_is_the_backends_matter(value: bytes) -> None:
    """A limit that is no count of tokens is not refused and not read."""
    assert read_facts(b'{"model":"a","max_tokens":' + value + b"}").max_tokens is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"x",
        b"{",
        b'{"model":"a"',
        b'{"model":"a"} x',
        b'{"model":"a",}',
        b'{"model":"a","x":NaN}',
        b'{"model":"a","x":-Infinity}',
        b'{"model":"a","x":"\\ud800",}',
        b'{"model":"a","x":"a\nb"}',
        b'{"model":"a","x":"\xff"}',
        b'{"model":"\xff"}',
        b'{"\xff":1,"model":"a"}',
        b'\xef\xbb\xbf{"model":"a"}',
        '{"model":"a"}'.encode("utf-16"),
    ],
)
def test_not_json(body: bytes) -> None:
    """What is not JSON in UTF-8 is refused as such."""
    with pytest.raises(InvalidJson):
        read_facts(body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b'"model"', None),
        (b"null", None),
        (b"1", None),
        (b'["\\ud800"]', None),
        (b"{}", "model"),
        (b'{"model":null}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":1}', "model"),
        (b'{"model":["a"]}', "model"),
        (b'{"model":' + b"1" * 400 + b"}", "model"),
        (b'{"model":"\\ud800"}', "model"),
        (b'{"Model":"a"}', "model"),
        (b'{"model":"a","MODEL":"b"}', "model"),
        (b'{"moDel":null,"model":"a"}', "model"),
        (b'{"model":"a","\\u004dodel":"b"}', "model"),
        (b'{"model":"a","Model":"b","stream":1}', "model"),
        (b'{"model":"a","Model":"b","x":"\\ud800"}', "model"),
        (b'{"model":"a","stream":1}', "stream"),
        (b'{"model":"a","stream":"true"}', "stream"),
        (b'{"model":"a","stream_options":true}', "stream_options"),
        (b'{"model":"a","stream_options":[]}', "stream_options"),
        (b'{"model":"a","stream_options":{"include_usage":1}}', "stream_options.include_usage"),
        (b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"model":"a","y":"\\ud800","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    ],
)
def test_wrong_shape(body: bytes, param: str | None) -> None:
    """JSON of the wrong shape names the key, in words without digits."""
    with pytest.raises(InvalidBody) as caught:
        read_facts(body)
    assert not isinstance(caught.value, InvalidJson)
    assert caught.value.param == param
    assert not re.search(r"\d", str(caught.value))


@pytest.mark.parametrize("options", [b'{"x":"\\ud800","include_usage":true}'])
def test_half_a_surrogate_pair_passes(options: bytes) -> None:
    """A text cut inside an emoji is valid JSON, and for the backend to judge."""
    body = b'{"messages":"\\ud83d","model":"a","stream":true,"stream_options":' + options + b"}"
    assert read_facts(body) == RequestFacts("a", stream=True, include_usage=True)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(
    rest=st.dictionaries(st.text(), _JSON),
    model=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    stream=st.booleans(),
    ascii_only=st.booleans(),
)
def test_other_keys_do_not_matter(
    rest: dict[str, object], model: str, stream: bool, ascii_only: bool
) -> None:
    """Any other content changes nothing."""
    rest = {key: value for key, value in rest.items() if not key.startswith(("max_", "stream"))}
    body = json.dumps({**rest, "model": model, "stream": stream}, ensure_ascii=ascii_only)
    assert read_facts(body.encode()) == RequestFacts(model, stream=stream)


@pytest.mark.parametrize("name", [name for name in recorded.names() if "/err_" not in name])
def test_recorded_requests(name: str) -> None:
    """Every recorded request that is not meant to be wrong is read as the json module reads it."""
    for request in recorded.load(name).requests:
        body = json.loads(request.body)
        if "model" in body:
            facts = read_facts(request.body)
            assert (facts.model, facts.stream) == (body["model"], body.get("stream", False))
