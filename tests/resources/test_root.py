"""The root: what is served where, and CORS."""

from __future__ import annotations

import pytest

from llmproxy.config.model import Cors
from llmproxy.resources.proxy import RELAYED_PATHS
from tests.edge import Answer
from tests.resources.tree import Tree

ORIGIN = "https://app.example"
CORS_FIELDS = (
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-expose-headers",
    b"access-control-allow-methods",
    b"access-control-allow-headers",
    b"access-control-max-age",
)


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/plain"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_local_paths(path: str, method: str) -> None:
    """They take GET and HEAD, with a query or without, and say no to the rest."""
    tree = Tree()
    assert tree.ask(method, path).status in (200, 503)
    assert tree.ask(method, path + "?a=b").status in (200, 503)
    answer = tree.ask("POST", path)
    assert (answer.status, answer.field(b"allow")) == (405, b"GET, HEAD, OPTIONS")
    answer = tree.ask("OPTIONS", path)
    assert (answer.status, answer.field(b"allow")) == (204, b"GET, HEAD, OPTIONS")
    assert tree.begun == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat",
        "/V1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat//completions",
        "//v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completion%73",
        "/v1/chat/completions%00",
        "/v1/chat/completions;x",
        "/v1/completions/x",
        "/v1/files",
        "/v1//models",
        "/v1/models/",
        "/health/",
        "/Health",
        "/ready/x",
        "/tokenize/",
        "/admin/keys/list",
        "/favicon.ico",
        "*",
        "http://gateway.test",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_paths(path: str, method: str) -> None:
    """The list is exact: nothing that only resembles a path is taken for it."""
    tree = Tree()
    answer = tree.ask(method, path)
    assert (answer.status, answer.error_code) == (404, "unknown_url")
    assert tree.begun == []


def test_options_of_the_server() -> None:
    """``OPTIONS *`` asks about no path."""
    answer = Tree().ask("OPTIONS", "*", key="")
    assert answer.status == 204
    assert answer.field(b"allow") == b"GET, HEAD, POST, OPTIONS"


def test_guards() -> None:
    """A path that is not left out of authentication needs a key."""
    tree = Tree(open_paths=("/ready",))
    assert tree.ask("GET", "/ready", key="").status == 503
    answer = tree.ask("GET", "/health", key="")
    assert (answer.status, answer.error_code) == (401, "invalid_api_key")
    assert answer.field(b"www-authenticate") == b"Bearer"
    assert tree.ask("GET", "/health").status == 200
    tree = Tree(open_paths=())
    assert tree.ask("GET", "/ready", key="").status == 401
    assert tree.ask("GET", "/ready", key="sk-some").status == 503
    assert tree.ask("OPTIONS", "/ready", key="").status == 204


# CORS


def cors_fields(answer: Answer) -> dict[bytes, bytes]:
    """Give what a browser looks at."""
    return {name: answer.field(name) for name in CORS_FIELDS if answer.field(name)}


def preflight(tree: Tree, path: str = "/v1/chat/completions", origin: str = ORIGIN) -> Answer:
    """Ask as browsers do."""
    return tree.ask(
        "OPTIONS", path, f"Origin: {origin}", "Access-Control-Request-Method: POST", key=""
    )


def test_without_cors() -> None:
    """No field of it is sent, and a preflight is an OPTIONS like any other."""
    tree = Tree()
    answer = tree.ask("GET", "/health", f"Origin: {ORIGIN}")
    assert cors_fields(answer) == {}
    assert answer.field(b"vary") == b""
    answer = preflight(tree)
    assert cors_fields(answer) == {}
    assert answer.field(b"allow") == b"POST, OPTIONS"


def test_cors_for_all() -> None:
    """A preflight is answered before anybody asks for a key, on every path there is or is not."""
    tree = Tree(cors=Cors(enabled=True, max_age=60))
    for path in ("/v1/chat/completions", "/v1/models/org/whole", "/", "/nowhere"):
        answer = preflight(tree, path)
        assert answer.status == 204
        assert cors_fields(answer) == {
            b"access-control-allow-origin": b"*",
            b"access-control-allow-methods": b"GET, POST, OPTIONS",
            b"access-control-allow-headers": (
                b"Authorization, Content-Type, X-API-Key, X-Request-ID"
            ),
            b"access-control-max-age": b"60",
        }
        assert answer.field(b"vary") == b""
    assert tree.begun == []


def test_cors_of_answers() -> None:
    """Whatever the answer is, scripts may read it: errors and relayed ones too."""
    tree = Tree(cors=Cors(enabled=True, expose_headers=("X-Request-ID", "Retry-After")))
    for method, path, status in (
        ("GET", "/health", 200),
        ("POST", "/v1/chat/completions", 200),
        ("GET", "/nowhere", 404),
        ("POST", "/health", 405),
    ):
        answer = tree.ask(method, path, f"Origin: {ORIGIN}")
        assert answer.status == status
        assert cors_fields(answer) == {
            b"access-control-allow-origin": b"*",
            b"access-control-expose-headers": b"X-Request-ID, Retry-After",
        }
    assert cors_fields(tree.ask("GET", "/health")) == {}


def test_cors_for_some() -> None:
    """Only the origins of the list; caches learn that it matters."""
    tree = Tree(
        cors=Cors(enabled=True, allowed_origins=(ORIGIN, "http://b"), allow_credentials=True)
    )
    answer = tree.ask("GET", "/health", f"Origin: {ORIGIN}")
    assert cors_fields(answer) == {
        b"access-control-allow-origin": ORIGIN.encode(),
        b"access-control-allow-credentials": b"true",
    }
    assert answer.field(b"vary") == b"Origin"
    answer = preflight(tree, origin="http://b")
    assert answer.field(b"access-control-allow-origin") == b"http://b"
    assert answer.field(b"access-control-allow-methods")
    for other in ("https://evil.example", "null", ORIGIN + ".evil.example", ORIGIN.upper()):
        answer = tree.ask("GET", "/health", f"Origin: {other}")
        assert answer.status == 200
        assert cors_fields(answer) == {}
        assert answer.field(b"vary") == b"Origin"
        answer = preflight(tree, origin=other)
        assert cors_fields(answer) == {}
        assert answer.field(b"allow") == b"POST, OPTIONS"


@pytest.mark.parametrize("missing", ["Origin", "Access-Control-Request-Method"])
def test_an_options_that_is_no_preflight(missing: str) -> None:
    """It is answered with what the path takes."""
    lines = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    del lines[missing]
    tree = Tree(cors=Cors(enabled=True))
    answer = tree.ask(
        "OPTIONS", "/v1/completions", *(f"{name}: {value}" for name, value in lines.items())
    )
    assert answer.field(b"allow") == b"POST, OPTIONS"
    assert answer.field(b"access-control-allow-methods") == b""
    assert tree.ask("OPTIONS", "/nowhere", f"Origin: {ORIGIN}").status == 404


def test_relayed_paths_are_all_there() -> None:
    """The contract's list, word for word."""
    assert {path.decode() for path in RELAYED_PATHS} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/rerank",
        "/v1/score",
        "/tokenize",
        "/detokenize",
    }
