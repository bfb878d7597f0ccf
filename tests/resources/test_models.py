"""``/v1/models``."""

from __future__ import annotations

import pytest

from tests.resources.tree import CREATED, Tree

PLAIN = {"id": "plain", "object": "model", "created": CREATED, "owned_by": "llmproxy"}
SECRET = {**PLAIN, "id": "secret", "input_modalities": ["text", "image"], "reasoning": True}
WHOLE = {
    "id": "org/whole",
    "object": "model",
    "created": CREATED,
    "owned_by": "llmproxy",
    "name": "Whole",
    "description": "All of it.",
    "max_model_len": 131072,
    "max_output_tokens": 8192,
}


def test_the_list() -> None:
    """In OpenAI's shape; what is not known of a model is left out."""
    answer = Tree().ask("GET", "/v1/models")
    assert answer.json == {
        "object": "list",
        "data": [PLAIN, WHOLE, SECRET],
    }


def test_only_what_the_key_may_use() -> None:
    """Others do not exist for it."""
    tree = Tree()
    answer = tree.ask("GET", "/v1/models", key="sk-some")
    assert [model["id"] for model in answer.json["data"]] == ["plain", "org/whole"]
    assert tree.ask("GET", "/v1/models/secret").status == 200
    answer = tree.ask("GET", "/v1/models/secret", key="sk-some")
    assert (answer.status, answer.error_code) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path", ["org/whole", "org%2Fwhole", "org%2fwhole", "org/%77hole", "org/whole?x=y"]
)
def test_one_model(path: str) -> None:
    """Ids may hold slashes, written either way."""
    assert Tree().ask("GET", f"/v1/models/{path}").json == WHOLE


@pytest.mark.parametrize(
    "path", ["none", "org", "org/", "org//whole", "/plain", "plain/", "PLAIN", "%FF", "plain%00"]
)
def test_no_such_model(path: str) -> None:
    """A 404 in JSON, whatever the id looks like."""
    answer = Tree().ask("GET", f"/v1/models/{path}")
    assert answer.status == 404
    assert answer.error_code in ("model_not_found", "unknown_url")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/plain", "/v1/models/none"])
@pytest.mark.parametrize("key", ["", "sk-wrong"])
def test_without_a_key(path: str, key: str) -> None:
    """Nobody learns which models there are."""
    answer = Tree().ask("GET", path, key=key)
    assert (answer.status, answer.error_code) == (401, "invalid_api_key")


def test_head() -> None:
    """The same head, no body."""
    tree = Tree()
    assert tree.ask("HEAD", "/v1/models").fields == tree.ask("GET", "/v1/models").fields
