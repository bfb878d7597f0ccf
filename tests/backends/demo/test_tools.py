"""Tests of the demo model's tool calls."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llmproxy.backends.demo import tools
from llmproxy.backends.demo.requests import Function
from llmproxy.errors import InvalidBody


def function(name: str, /, required: list[str] | None = None, **properties: Any) -> Function:
    """Make a function with a schema."""
    schema = {"type": "object", "properties": properties, "required": required or []}
    return Function(name, parameters=schema)


TEXT = {"type": "string"}
OPENCODE_READ = function("read", ["filePath"], filePath=TEXT, offset={"type": "number"})


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("Read the file notes.txt and tell me the token in it.", "notes.txt"),
        ('"Read the file `src/a.py`, please."', "src/a.py"),
        ("open /etc/hosts", "/etc/hosts"),
        ("show me ../x", "../x"),
        ("cat .env", ".env"),
        ("read @README.md.", "README.md"),
        ("Read this and/or that, e.g. /tmp/my-file", "/tmp/my-file"),
        ("read src/Makefile", "src/Makefile"),
        ("is notes.txt nice?", None),
        ("/tmp/file/read/show.txt is nice", None),
        ("read https://example.org/a.txt", None),
        ("read chapter 3.11, e.g. so...what", None),
        ("Read it to me.", None),
        ("", None),
    ],
)
def test_a_path_is_found_where_a_file_is_asked_for(text: str, path: str | None) -> None:
    """A word like a path, beside a word like read."""
    assert tools.asked_path(text) == path


@pytest.mark.parametrize("word", ["a" * 300_000, "a." * 150_000, "/" * 300_000, "a/" * 150_000])
def test_long_words_cost_no_time(word: str) -> None:
    """A hostile word does not hold up the daemon."""
    began = time.perf_counter()
    tools.asked_path(f"read {word}!")
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("candidate", "argument"),
    [
        (OPENCODE_READ, "filePath"),
        (function("read_file", ["path"], path=TEXT), "path"),
        (function("Read", ["limit", "file_path"], limit={"type": "integer"}, file_path=TEXT), None),
        (function("read", ["name"], hint=TEXT, name=TEXT), "name"),
        (function("fs_read", ["target_file"], target_file={"type": ["string", "null"]}), None),
    ],
)
def test_the_argument_is_named_as_the_schema_says(
    candidate: Function, argument: str | None
) -> None:
    """Whatever the reader calls its path, the path goes there, and all that is required comes."""
    other = function("bash", ["command"], command=TEXT)
    found = tools.find_reader([other, candidate])
    assert found is candidate
    made = tools.arguments(found, "a.txt")
    assert "a.txt" in made.values()
    assert candidate.parameters is not None
    assert set(candidate.parameters["required"]) <= set(made)
    if argument is not None:
        assert made == {argument: "a.txt"}


def test_an_exact_name_goes_before_a_similar_one() -> None:
    """``read`` is preferred to ``read_notebook``, in any order."""
    notebook = function("read_notebook", path=TEXT)
    assert tools.find_reader([notebook, OPENCODE_READ]) is OPENCODE_READ
    assert tools.find_reader([notebook]) is notebook


@pytest.mark.parametrize(
    "candidate",
    [
        function("write", ["filePath"], filePath=TEXT),
        function("spread", ["amount"], amount={"type": "number"}),
        function("thread_list", text=TEXT),
        function("read", ["count"], count={"type": "integer"}),
        Function("read"),
        Function("read", parameters={"properties": ["no", "schema"]}),
    ],
)
def test_other_tools_are_no_readers(candidate: Function) -> None:
    """A tool without a parameter for a path cannot be asked to read."""
    assert tools.find_reader([candidate]) is None


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, ""),
        ({"type": "string", "minLength": 2}, "de"),
        ({"type": "integer"}, 0),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "number", "exclusiveMinimum": 0}, 1),
        ({"type": "number", "maximum": -2}, -2),
        ({"type": "boolean"}, False),
        ({"type": "array", "items": {"type": "string"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"type": "null"}, None),
        ({"type": ["null", "integer"]}, 0),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 7}, 7),
        ({"type": "string", "default": "x"}, "x"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
        ({"$ref": "#/$defs/Size"}, 9),
        ({"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"a": 0}),
        ({}, ""),
        (True, ""),
    ],
)
def test_required_arguments_are_the_emptiest_allowed(schema: Any, value: Any) -> None:
    """Each kind of schema has its value; what is optional is left out."""
    parameters = {
        "properties": {"it": schema, "optional": {"type": "string"}},
        "required": ["it"],
        "$defs": {"Size": {"const": 9}},
    }
    assert tools.arguments(Function("f", parameters=parameters), None) == {"it": value}


def test_a_schema_that_refers_to_itself_ends() -> None:
    """Recursion is bounded."""
    names = [f"p{number}" for number in range(10)]
    schema = {
        "type": "object",
        "properties": {name: {"$ref": "#"} for name in names},
        "required": names,
    }
    began = time.perf_counter()
    assert set(tools.arguments(Function("f", parameters=schema), None)) == set(names)
    assert time.perf_counter() - began < 1


def test_tool_choice_forces() -> None:
    """An object names its function, in both of the API's shapes; required takes the first."""
    other = function("other")
    offered = [other, OPENCODE_READ]
    named = {"type": "function", "function": {"name": "read"}}
    assert tools.forced(offered, named) is OPENCODE_READ
    assert tools.forced(offered, {"type": "function", "name": "read"}) is OPENCODE_READ
    assert tools.forced(offered, "required") is other
    assert tools.forced(offered, "auto") is None
    assert tools.forced(offered, "none") is None
    assert tools.forced([], None) is None


@pytest.mark.parametrize("choice", ["required", "sometimes", {"function": {"name": "x"}}, {}])
@pytest.mark.parametrize("offered", [[], [OPENCODE_READ]])
def test_a_tool_choice_that_cannot_be_met_is_refused(offered: list[Function], choice: Any) -> None:
    """The key is named."""
    if offered and choice == "required":
        assert tools.forced(offered, choice) is OPENCODE_READ
        return
    with pytest.raises(InvalidBody) as caught:
        tools.forced(offered, choice)
    assert caught.value.param == "tool_choice"
