"""``/.well-known/opencode``, and what it sends OpenCode to."""

from __future__ import annotations

import pytest

from llmproxy.wire.opencode import LOGIN_COMMAND, OpenCodeProvider
from tests.resources.tree import Tree

PROVIDER = OpenCodeProvider(
    url="https://gw.example", key_header="Authorization", head_wait_s=330, silence_s=150
)
PATH = "/.well-known/opencode"


def test_everybody_may_ask_how_to_log_in() -> None:
    """The answer is the same for all, and has no model in it."""
    tree = Tree(opencode=PROVIDER)
    answer = tree.ask("GET", PATH, key="")
    assert answer.status == 200
    assert answer.json == PROVIDER.well_known()
    assert answer.json["auth"]["command"] == list(LOGIN_COMMAND)
    for name in (b"plain", b"secret", b"whole"):
        assert name not in answer.body
    assert tree.ask("HEAD", PATH, key="").fields == answer.fields


@pytest.mark.parametrize("path", [PATH, f"{PATH}/config"])
def test_nothing_of_a_request_flows_into_an_answer(path: str) -> None:
    """Whatever it says of hosts, or elsewhere."""
    tree = Tree(opencode=PROVIDER)
    asked = tree.ask(
        "GET",
        f"{path}?url=https://evil.example",
        "X-Forwarded-Host: evil.example",
        "Forwarded: host=evil.example",
        "Origin: https://evil.example",
        "Referer: https://evil.example",
    )
    assert asked.json == tree.ask("GET", path).json
    absolute = tree.ask("GET", f"http://evil.example{path}")
    assert b"evil" not in absolute.body


def test_a_key_sees_its_models() -> None:
    """And no other."""
    tree = Tree(opencode=PROVIDER)
    for key, models in (
        ("sk-all", ["plain", "org/whole", "secret"]),
        ("sk-some", ["plain", "org/whole"]),
    ):
        answer = tree.ask("GET", f"{PATH}/config", key=key)
        assert list(answer.json["provider"]["llmproxy"]["models"]) == models
        assert answer.json["model"] == "llmproxy/plain"


@pytest.mark.parametrize("key", ["", "sk-wrong"])
def test_without_a_key(key: str) -> None:
    """Nobody learns which models there are; the refusal is JSON."""
    answer = Tree(opencode=PROVIDER).ask("GET", f"{PATH}/config", key=key)
    assert (answer.status, answer.error_code) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", [PATH, f"{PATH}/config"])
def test_only_where_it_is_switched_on(path: str) -> None:
    """Else it is a path like any other that is not served."""
    answer = Tree().ask("GET", path)
    assert (answer.status, answer.error_code) == (404, "unknown_url")


@pytest.mark.parametrize("path", ["/.well-known", "/.well-known/", f"{PATH}/", f"{PATH}/x"])
def test_nothing_else_is_there(path: str) -> None:
    """Neither above nor below."""
    answer = Tree(opencode=PROVIDER).ask("GET", path)
    assert (answer.status, answer.error_code) == (404, "unknown_url")


def test_other_methods() -> None:
    """They are told which are taken."""
    answer = Tree(opencode=PROVIDER).ask("POST", PATH)
    assert (answer.status, answer.field(b"allow")) == (405, b"GET, HEAD, OPTIONS")
