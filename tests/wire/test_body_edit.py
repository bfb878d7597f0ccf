"""Tests of byte edits of a request's body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.errors import InvalidBody
from llmproxy.wire import body_edit
from llmproxy.wire.body_edit import edit_body

ASKED = b'"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("body", "edited"),
    [
        (b'{"model":"a"}', b'{"model":"b"}'),
        (b' { "model" : "a" , "x":1.0e0} ', b' { "model" : "b" , "x":1.0e0} '),
        (
            b'{"model":"a","x":{"model":"a"},"model":7}',
            b'{"model":"b","x":{"model":"a"},"model":"b"}',
        ),
        (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"b"}'),
        (
            b'{"\\u006D\\u006f\\u0064\\u0065\\u006c":"a"}',
            b'{"\\u006D\\u006f\\u0064\\u0065\\u006c":"b"}',
        ),
        (b'{"x":"\\"model\\":\\"a\\"","model":"a"}', b'{"x":"\\"model\\":\\"a\\"","model":"b"}'),
        (b'{"x":"}{][\\\\","model":"a\\"}"}', b'{"x":"}{][\\\\","model":"b"}'),
        (b'{"x":"model","model":"a","y":["model"]}', b'{"x":"model","model":"b","y":["model"]}'),
        (b'{"models":"a","mode":"a","Model":"a"}', b'{"models":"a","mode":"a","Model":"a"}'),
        (
            b'{"x":[1,-2.5e-3,true,null,[],{}],"model":{"y":[]}}',
            b'{"x":[1,-2.5e-3,true,null,[],{}],"model":"b"}',
        ),
        (b"{}", b"{}"),
        (b'{"x":"\\ud800","model":"a"}', b'{"x":"\\ud800","model":"b"}'),
        (b'{"x":1,"y":2,"x":1,"model":"a"}', b'{"x":1,"y":2,"x":1,"model":"b"}'),
        (b'{"x":1,"x":1e5,"model":"a","z":[1 ]}', b'{"x":1,"x":1e5,"model":"b","z":[1 ]}'),
        (b'{"x":[],"x":[[[[[1]]]]],"model":"a"}', b'{"x":[],"x":[[[[[1]]]]],"model":"b"}'),
    ],
)
def test_model(body: bytes, edited: bytes) -> None:
    """Every top-level model is replaced, and nothing else."""
    assert edit_body(body, model="b") == edited


def test_model_is_spelled_as_json() -> None:
    """Quotes and characters beyond ASCII in a model's name are no trouble."""
    assert json.loads(edit_body(b'{"model":"a"}', model='é"\\\n')) == {"model": 'é"\\\n'}


@pytest.mark.parametrize(
    ("body", "edited"),
    [
        (b'{"model":"a"}', b"{" + ASKED + b',"model":"a"}'),
        (b' { "model":"a"}', b" {" + ASKED + b', "model":"a"}'),
        (b"{}", b"{" + ASKED + b"}"),
        (b"{ }", b"{" + ASKED + b" }"),
        (b'{"stream_options" : null }', b'{"stream_options" : {"include_usage":true} }'),
        (b'{"stream_options":{}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{ }}', b'{"stream_options":{"include_usage":true }}'),
        (b'{"stream_options":{"x":[{}]}}', b'{"stream_options":{"include_usage":true,"x":[{}]}}'),
        (
            b'{"stream_options":{"continuous_usage_stats" : true, "include_usage":false}}',
            b'{"stream_options":{"continuous_usage_stats" : false, "include_usage":true}}',
        ),
        (
            b'{"stream_options":{"continuous_usage_stats":true}}',
            b'{"stream_options":{"include_usage":true,"continuous_usage_stats":false}}',
        ),
        (
            b'{"stream_options":{"include_usage":false,"continuous_usage_stats":false}}',
            b'{"stream_options":{"include_usage":true,"continuous_usage_stats":false}}',
        ),
        (
            b'{"stream_options":{"include_usage":null}}',
            b'{"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream_options":{"include_usage": false, "x":1}}',
            b'{"stream_options":{"include_usage": true, "x":1}}',
        ),
        (
            b'{"stream\\u005Foptions":{"include\\u005fusage":false}}',
            b'{"stream\\u005Foptions":{"include\\u005fusage":true}}',
        ),
        (
            b'{"stream_options":{"include_usage":false,"include_usage":null}}',
            b'{"stream_options":{"include_usage":true,"include_usage":true}}',
        ),
        (
            b'{"stream_options":null,"stream_options":{}}',
            b'{"stream_options":{"include_usage":true},"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"x":{"stream_options":{"include_usage":false}}}',
            b"{" + ASKED + b',"x":{"stream_options":{"include_usage":false}}}',
        ),
    ],
)
def test_include_usage(body: bytes, edited: bytes) -> None:
    """Usage is asked for, with the least change."""
    assert edit_body(body, include_usage=True) == edited


@pytest.mark.parametrize("body", [b'{"stream_options":{"include_usage":true}}', b'{"x":1}'])
def test_nothing_to_do(body: bytes) -> None:
    """A body that needs no change is given back itself."""
    assert edit_body(body, include_usage=b"stream" in body) is body


def test_both() -> None:
    """Both edits at once, in either order of the keys."""
    assert edit_body(b'{"stream_options":{},"model":"a"}', model="b", include_usage=True) == (
        b'{"stream_options":{"include_usage":true},"model":"b"}'
    )
    assert edit_body(b'{"model":"a"}', model="b", include_usage=True) == (
        b"{" + ASKED + b',"model":"b"}'
    )


@pytest.mark.parametrize("depth", [1, 11, 12, 13, 14, 30, 900, 15_000])
@pytest.mark.parametrize("repeated", [b"", b'"x":1,'])
def test_deep_nesting(depth: int, repeated: bytes) -> None:
    """A value of any depth is stepped over, on both ways of finding places."""
    deep = b'[1,{"model":"no","y":"]\\"}"},' * depth + b"2" + b',"]"]' * depth
    body = b"{" + repeated + b'"x":' + deep + b',"model":"a","z":' + deep + b"}"
    assert edit_body(body, model="b") == body.replace(b'"model":"a"', b'"model":"b"')


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_KEYS = st.text() | st.sampled_from(
    ["model", "stream_options", "model\\", '"', "mod", "include_usage"]
)
_LAYOUTS = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.sampled_from([None, 1, "\t"]),
        "separators": st.sampled_from([(",", ":"), (" , ", " : ")]),
    }
)


@settings(max_examples=50, deadline=None)
@given(
    body=st.dictionaries(_KEYS, _JSON),
    options=st.none() | st.dictionaries(_KEYS, _JSON),
    layout=_LAYOUTS,
)
def test_same_meaning(body: dict[str, Any], options: dict[str, Any] | None, layout: Any) -> None:
    """The edited body means the same, but for the change."""
    body["stream_options"] = options
    text = json.dumps(body, **layout).encode("utf-8", "surrogatepass")
    wanted = {**body, "stream_options": {**(options or {}), "include_usage": True}}
    if "model" in body:
        wanted["model"] = "new"
    edited = edit_body(text, model="new", include_usage=True)
    assert json.loads(edited.decode("utf-8", "surrogatepass")) == wanted


_SPACE = st.sampled_from([b"", b" ", b"\n\t"])


@st.composite
def _entries(draw: st.DrawFn) -> bytes:
    """Some entries of an object, each with a comma after it; keys repeat."""
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        key = json.dumps(draw(st.sampled_from(["a", "models", "b"]) | st.text())).encode()
        if json.loads(key) in ("model", "stream_options"):
            continue
        value = json.dumps(draw(_JSON)).encode()
        parts += [draw(_SPACE), key, draw(_SPACE), b":", draw(_SPACE), value, draw(_SPACE), b","]
    return b"".join(parts)


@settings(max_examples=50, deadline=None)
@given(
    before=_entries(),
    between=_entries(),
    after=_entries(),
    space=_SPACE,
    model=_JSON.map(lambda value: json.dumps(value).encode()),
)
def test_other_bytes_stay(
    before: bytes, between: bytes, after: bytes, space: bytes, model: bytes
) -> None:
    """Every byte outside the replaced values is as it was, repeated keys or not."""
    frame = b"{%s%s%%s,%s%s%%s,%s%s}"
    frame = frame % (
        before.replace(b"%", b"%%"),
        space + b'"model"' + space + b":" + space,
        between.replace(b"%", b"%%"),
        b'"mod\\u0065l":',
        after.replace(b"%", b"%%"),
        b'"last":"%%"',
    )
    assert edit_body(frame % (model, model), model="b") == frame % (b'"b"', b'"b"')


def test_old_python_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where expressions remember each repetition, only bodies of a bounded size get to them."""
    monkeypatch.setattr(body_edit, "_OLD_RE", True)
    large = b'{"x":1,"x":"%s","model":"a"}' % (b"y" * body_edit._OLD_LIMIT_BYTES)
    with pytest.raises(InvalidBody):
        body_edit.edit_body(large, model="b")
    with pytest.raises(InvalidBody):
        body_edit.edit_body(
            b'{"stream_options":{"x":"%s"}}' % (b"y" * body_edit._OLD_LIMIT_BYTES),
            include_usage=True,
        )
    plain = large.replace(b'"x":1,', b"")
    assert body_edit.edit_body(plain, model="b") == plain.replace(b'"a"', b'"b"')
