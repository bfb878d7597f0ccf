"""Tests of the shape of events: what it matches, what it must not, and that it gives up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.event_shape import MAX_LESSONS, EventShape


def keys(one: bytes) -> object:
    """Give the keys in an event, those of objects in it as well."""
    return json.loads(
        one[one.index(b"data: ") + 6 :],
        object_pairs_hook=lambda pairs: [
            (name, value if isinstance(value, list) else None) for name, value in pairs
        ],
    )


def event(
    text: str, number: int = 17, key: str = "content", after: str = "", name: str = ""
) -> bytes:
    """Write an event with one text; ``after`` may end with the key of the number instead."""
    written = json.dumps(text, ensure_ascii=False)
    before = f'"id":"x-{number}","n":{number},'
    if after.endswith(":"):
        before, after = '"id":"x",', f"{after}{number}"
    return f'{name}data: {{{before}"delta":{{"{key}":{written}{after}}}}}\n\n'.encode()


def shape_of(*events: bytes, key: bytes = b"content") -> EventShape:
    """Teach a shape these events, one after the other."""
    shape = EventShape()
    for one in events:
        shape.learn(one, one.index(b'"' + key + b'":"') + len(key) + 4)
    return shape


def test_matches_nothing_before_it_was_taught() -> None:
    """A new shape matches nothing at all."""
    shape = EventShape()
    assert shape.texts(event("a")) == shape.texts(b"") == -1
    assert shape.run_end(event("a"), 0) == -1
    assert shape.teachable


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        (["b"], 1),
        ([""], 0),
        (["b", "c"], 2),
        (["", "c", ""], 1),
        (["", ""], 0),
        (['"'], 1),
        (['"', 'say "x"', ""], 2),
        (["\n", "é", "\t"], 3),
        (['"content":"', "data: [DONE]\n\n"], 2),
        ([event("a").decode()], 1),
        ([event("a").decode(), event("").decode(), ""], 2),
        (['"}}\n\n', '{"usage":{"prompt_tokens":5}}'], 2),
    ],
)
def test_counts_texts(texts: list[str], count: int) -> None:
    """Of events of its shape, those whose text is not empty are counted, whatever they say."""
    assert shape_of(event("a")).texts(b"".join(map(event, texts))) == count


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\n",
        event("a")[:-1],
        event("a")[1:],
        event("a") + b"\n",
        b"\n" + event("a"),
        event("a") + event("b")[:-1],
        event("a")[:-1] + event("b"),
        event("a") + b": comment\n\n",
        b": comment\n\n" + event("a"),
        event("a") + b": comment\n\n" + event("b"),
        event("a") + b"data: [DONE]\n\n",
        event("a") + b"data: [DONE]\n\n" + event("b"),
        event("a").replace(b"\n", b"\r\n"),
        event("a", key="reasoning"),
        event("a", after=',"finish_reason":"stop"'),
        event("a", after=',"content":"b"'),
        event("a") + event("b", after=',"content":"c"') + event("d"),
        event("a") + event("b", 18) + event("c"),
        event("a") + b'data: {"usage":{"prompt_tokens":5}}\n\n' + event("a"),
        b'data: {"id":"x-17","n":17,"delta":{"content":"}}\n\n',
    ],
)
def test_anything_else_is_no_match(block: bytes) -> None:
    """Parts of events, other lines and other keys are no match, wherever they stand."""
    assert shape_of(event("a")).texts(block) == -1


@pytest.mark.parametrize(
    "text", ["\\", "a\\", '\\"', '"\\', '","finish_reason":"stop\\', "\\\\", 'x\\","y":"']
)
def test_backslashes_are_left_to_others(text: str) -> None:
    """Whether a quote behind several backslashes ends a text is not guessed."""
    shape = shape_of(event("a"))
    assert shape.texts(event(text)) == -1
    assert shape.texts(event("b") + event(text)) == -1
    assert shape.texts(event("b")) == 1


@pytest.mark.parametrize(
    "lesson",
    [
        event('a"b'),
        event("a\\"),
        event("a", after=',"more":"\\n"'),
        b'data: {"x":"\\n","content":"a"}\n\n',
        b'event: x\nevent: y\ndata: {"content":"a"}\n\n',
        b'data: x\ndata: {"content":"a"}\n\n',
        b'event: {"text":"a"}\ndata: {"content":"a"}\n\n',
        b'\n\ndata: {"content":"a"}\n\n',
        b'\rdata: {"content":"a"}\n\n',
        b'data: {"content":"a',
        b'data: {"content":"a","x":"' + b"x" * 20_000 + b'"}\n\n',
    ],
)
def test_what_cannot_be_learnt(lesson: bytes) -> None:
    """A lesson with backslashes, several lines, or without an end leaves the shape as it was."""
    assert shape_of(lesson).texts(lesson) == -1
    shape = shape_of(event("a"), lesson)
    assert shape.texts(event("b")) == 1


def test_the_last_lesson_counts() -> None:
    """A new shape takes the old one's place."""
    shape = shape_of(event("a"), event("a", after=',"x":1'))
    assert shape.texts(event("b")) == -1
    assert shape.texts(event("b", after=',"x":1') * 3) == 3


@pytest.mark.parametrize("before", [17, 9, 10])
def test_what_changes_is_left_open(before: int) -> None:
    """An id or a counter that differs between two lessons may be any other, of any length."""
    changing = b'data: {"id":"x","n":%d,"delta":{"content":"%b"}}\n\n'
    shape = shape_of(changing % (before, b"a"), changing % (before + 1, b"b"))
    assert shape.texts(changing % (1234, b"a")) == 1
    assert shape.texts(changing % (1, b"") + changing % (99, b"a") + changing % (100, b"")) == 1
    assert shape.texts(changing % (1, b"a") + changing.replace(b"n", b"m") % (1, b"a")) == -1


@pytest.mark.parametrize("before", [17, 9, 10])
def test_what_changes_behind_the_text(before: int) -> None:
    """A number behind the text, as the Responses API has one in each event, is left open too."""
    changing = b'data: {"delta":"%b","id":"x","n":%d,"type":"text"}\n\n'
    shape = EventShape()
    for number in (before, before + 1):
        lesson = changing % (b"a", number)
        shape.learn(lesson, lesson.index(b'"a"') + 1)
    assert shape.texts(changing % (b"a", 1234)) == 1
    assert shape.texts(changing % (b"", 7)) == 0
    assert shape.texts(changing % (b'\\"n\\":', 7)) == 1
    assert shape.texts(changing % (b"", 1) + changing % (b"a", 99) + changing % (b"", 100)) == 1
    assert shape.texts(changing % (b"a", 1) + changing.replace(b"n", b"m") % (b"a", 1)) == -1
    assert shape.texts(changing.replace(b"text", b"done") % (b"a", 1)) == -1
    more = changing.replace(b'"n"', b'"error":1,"n"')
    assert shape.texts(more % (b"a", 1)) == -1
    assert shape.texts(changing % (b"a", 1) + more % (b"b", 2) + changing % (b"c", 3)) == -1


def test_what_changes_on_both_sides_is_not_left_open() -> None:
    """With two places that change there is no shape; such events are searched."""
    changing = b'data: {"id":%d,"delta":"%b","n":%d}\n\n'
    shape = EventShape()
    for number in (7, 8, 9):
        lesson = changing % (number, b"a", number)
        shape.learn(lesson, lesson.index(b'"a"') + 1)
        assert shape.texts(lesson) == 1
        assert shape.texts(changing % (number + 1, b"a", number + 1)) == -1


def test_events_with_a_name() -> None:
    """The line that names an event is a part of its shape: the same in all, or no match."""
    named = b'event: text\ndata: {"delta":"%b"}\n\n'
    shape = EventShape()
    lesson = named % b"a"
    shape.learn(lesson, lesson.index(b'"a"') + 1)
    assert shape.texts(named % b"b") == 1
    assert shape.texts(named % b"b" + named % b"" + named % b"c") == 2
    assert shape.run_end(named % b"b" * 3 + b"event: end\n", 0) == len(named % b"b") * 3
    for other in (
        named.replace(b"event: text", b"event: error") % b"a",
        named.replace(b"event: text\n", b"") % b"a",
        b"id: 1\n" + named % b"a",
        named.replace(b"\n", b"\nid: 1\n", 1) % b"a",
        named % b"a" + b"data: [DONE]\n\n",
    ):
        assert shape.texts(other) == -1
        assert shape.texts(named % b"a" + other + named % b"a") == -1


def test_a_part_that_stands_twice_is_not_left_open() -> None:
    """Where the part between the places also stands elsewhere, counting it would prove nothing."""
    changing = b'data: {"a":1,"t":"x","a":%d,"t":"%b"}\n\n'
    shape = EventShape()
    for number in (7, 8):
        lesson = changing % (number, b"a")
        shape.learn(lesson, lesson.index(b'"a"}') + 1)
    assert shape.texts(changing % (8, b"b")) == 1
    assert shape.texts(changing % (9, b"b")) == -1
    assert shape.texts(b'data: {"a":1,"t":"x","a":"error":"b"}\n\n') == -1


def test_what_changes_right_before_the_text() -> None:
    """Texts are told from empty ones by what is the same in all events."""
    changing = b'data: {"n":%d,"t":"%b"}\n\n'
    shape = EventShape()
    for number in (7, 8):
        lesson = changing % (number, b"a")
        shape.learn(lesson, lesson.index(b'"a"') + 1)
    assert shape.texts(changing % (9, b"")) == 0
    assert shape.texts(changing % (9, b"") + changing % (10, b"") + changing % (8, b"a")) == 1


@pytest.mark.parametrize(
    ("one", "other", "third"),
    [
        # Half of a key is no value: the third's text would not be what the others' were.
        (b'{"content":"a"}', b'{"reasoning":"a"}', b'{"error":"a"}'),
        (b'{"content":"a"}', b'{"text":"a"}', b'{"not":"a"}'),
        (b'{"content":"a"}', b'{"reasoning_content":"a"}', b'{"x-content":"a"}'),
        (b'{"a":"x","content":"a"}', b'{"b":"x","content":"a"}', b'{"name":"x","content":"a"}'),
        (b'{"a":{},"content":"a"}', b'{"b":{},"content":"a"}', b'{"usage":{},"content":"a"}'),
        # Nor are two values with a key between them, or one more key.
        (
            b'{"a":"x","b":"x","content":"a"}',
            b'{"a":"y","b":"y","content":"a"}',
            b'{"a":"z","name":"z","content":"a"}',
        ),
        (b'{"a":1,"content":"a"}', b'{"a":2,"content":"a"}', b'{"a":3,"b":3,"content":"a"}'),
    ],
)
def test_keys_are_not_left_open(one: bytes, other: bytes, third: bytes) -> None:
    """What differs in or between keys is not taken for a value."""
    shape = EventShape()
    for lesson in (one, other, one, other):
        line = b"data: " + lesson + b"\n\n"
        shape.learn(line, line.rindex(b'"a"') + 1)
        assert shape.texts(line) == 1
        assert shape.texts(b"data: " + third + b"\n\n") == -1
        assert shape.texts(line + b"data: " + third + b"\n\n" + line) == -1


def test_run_end() -> None:
    """A run begins with an event of the shape, and reaches to the last that ends like one."""
    shape = shape_of(event("a"))
    run = event("b") * 3
    other = b'data: {"usage":{}}\n\n'
    assert shape.run_end(run + other, 0) == len(run)
    assert shape.run_end(other + run + other, len(other)) == len(other + run)
    assert shape.run_end(other + run, 0) == -1
    assert shape.run_end(event("a")[:-1], 0) == -1


def test_it_takes_so_many_lessons() -> None:
    """A stream whose events never repeat a shape is not learnt from for ever; a match resets."""
    shape = EventShape()

    def teach(number: int) -> bytes:
        lesson = b'data: {"k%d":"a"}\n\n' % number
        shape.learn(lesson, lesson.index(b'"a"') + 1)
        return lesson

    for number in range(MAX_LESSONS):
        assert shape.teachable
        lesson = teach(number)
        assert shape.texts(b'data: {"other":"a"}\n\n') == -1
    assert not shape.teachable
    assert shape.texts(lesson) == 1
    assert shape.teachable
    for number in range(MAX_LESSONS):
        assert shape.teachable
        lesson = teach(number)
    assert shape.texts(lesson * 2) == 2
    assert shape.teachable


_TEXTS = st.text(max_size=6) | st.sampled_from(['"', "\\", '\\"', '":"', '"}}', "", "\n"])
_AFTER = st.sampled_from(["", "", "", ',"n":', ',"n":', ',"x":null', ',"x":"y"', ',"content":"b"'])
_NAMES = st.sampled_from(["", "", "event: x\n", "event: x\n", "event: y\n"])


@given(
    lessons=st.lists(st.tuples(st.integers(0, 200), _AFTER, _NAMES), min_size=1, max_size=3),
    events=st.lists(
        st.tuples(
            _TEXTS, st.integers(0, 200), st.sampled_from(["content", "error"]), _AFTER, _NAMES
        ),
        max_size=5,
    ),
)
def test_a_match_is_true(
    lessons: list[tuple[int, str, str]], events: list[tuple[str, int, str, str, str]]
) -> None:
    """What is matched has the keys of the lesson in every event, and the count is right."""
    lesson = [event("a", number, after=after, name=name) for number, after, name in lessons]
    block = b"".join(event(*one) for one in events)
    count = shape_of(*lesson).texts(block)
    if count < 0:
        return
    assert [keys(event(*one)) for one in events] == [keys(lesson[-1])] * len(events)
    assert count == sum(1 for text, *_ in events if text)


@given(texts=st.lists(st.text().filter(lambda text: "\\" not in text), min_size=1, max_size=5))
def test_what_is_alike_is_matched(texts: list[str]) -> None:
    """Events of the shape match, so that they need not be searched."""
    block = b"".join(map(event, texts))
    assert shape_of(event("a")).texts(block) == sum(1 for text in texts if text)
