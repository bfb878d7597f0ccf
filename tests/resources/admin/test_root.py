"""The root: exact paths, methods, bodies, and what becomes of requests whose client leaves."""

from __future__ import annotations

from typing import Any

import pytest

from llmproxy.values import UsageTotal
from tests.edge import get, post, post_chunked
from tests.resources.admin.tree import WITH_TOKEN, AdminTree


def stray_paths(path: str) -> list[str]:
    """Give paths that resemble one and are not it."""
    *_, last = path.split("/")
    return [
        path + "/",
        path + "//",
        "/" + path,
        path.replace("/", "//"),
        path.replace("/admin/", "/admin/./"),
        path.replace("/admin/", "/admin/x/../"),
        path.upper(),
        path.replace("/admin/", "/Admin/"),
        path.replace(last, last.replace(last[0], f"%{ord(last[0]):02x}", 1)),
        "/admin" + path.removeprefix("/admin").replace("/", "%2f"),
        path + "%00",
        path + ";x",
        path + ".json",
        path + "%20",
        path.removeprefix("/admin"),
        "/v1" + path,
        path + "\\",
    ]


@pytest.mark.parametrize("path", ["/admin/keys/list", "/admin/backends", "/admin/openapi.json"])
def test_exact_paths(path: str) -> None:
    """Nothing that only resembles a path is taken for it."""
    tree = AdminTree()
    for stray in stray_paths(path):
        if stray == path:
            continue
        for raw in (post(b"{}", WITH_TOKEN, path=stray), get(stray, WITH_TOKEN)):
            answer = tree.send(raw)
            assert answer.status == 404, stray
    assert tree.keys.outage.asked == 0


@pytest.mark.parametrize(
    "path", ["/", "*", "/admin", "/admin/", "/admin/keys", "/admin/usage", "/health", "/me"]
)
def test_other_paths(path: str) -> None:
    """There is nothing else on this listener."""
    assert AdminTree().ask("GET", path).status == 404


def test_absolute_targets() -> None:
    """A whole URL as the target is the path in it (RFC 9112, section 3.2.2)."""
    assert AdminTree().ask("GET", "http://gateway.test/admin/backends").status == 200


def test_queries_are_ignored() -> None:
    """A query changes nothing."""
    tree = AdminTree()
    assert tree.done("/admin/keys/list?limit=1&X-Admin-Token=x", {})["limit"] == 20
    assert tree.ask("GET", "/admin/backends?name=x").status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost:1", "127.0.0.1"])
def test_hosts(host: str) -> None:
    """Whatever name it was called by: the token says who asks."""
    raw = get("/admin/backends", WITH_TOKEN).replace(b"gateway.test", host.encode())
    assert AdminTree().send(raw, "GET").status == 200


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/admin/keys/list", b"POST, OPTIONS"),
        ("/admin/backends", b"GET, HEAD, OPTIONS"),
        ("/admin/openapi.json", b"GET, HEAD, OPTIONS"),
    ],
)
def test_methods(path: str, allow: bytes) -> None:
    """The others are refused with those that there are."""
    tree = AdminTree()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = tree.ask(method, path)
        if method.encode() in allow.split(b", "):
            assert answer.status in (200, 400)
        else:
            assert (answer.status, answer.field(b"allow")) == (405, allow) or method == "HEAD"
    answer = tree.ask("OPTIONS", path, "Origin: http://a", "Access-Control-Request-Method: POST")
    assert (answer.status, answer.field(b"allow"), answer.body) == (204, allow, b"")
    assert not any(name.startswith(b"access-control") for name, _ in answer.fields)
    assert tree.keys.outage.asked == 0


def test_options_of_the_server() -> None:
    """``OPTIONS *`` asks about no path."""
    answer = AdminTree().ask("OPTIONS", "*")
    assert (answer.status, answer.field(b"allow")) == (204, b"GET, HEAD, POST, OPTIONS")


def test_head() -> None:
    """It is a GET whose body is not sent."""
    tree = AdminTree()
    got, head = tree.ask("GET", "/admin/config"), tree.ask("HEAD", "/admin/config")
    assert head.body == b""
    assert head.fields[:4] == got.fields[:4]


def test_fields_of_answers() -> None:
    """Answers are JSON that nobody keeps or guesses at, and carry the request's id."""
    tree = AdminTree()
    for answer in (
        tree.ask("GET", "/admin/config", "X-Request-ID: mine-1"),
        tree.ask("GET", "/nowhere", "X-Request-ID: mine-1"),
    ):
        assert answer.field(b"content-type") == b"application/json"
        assert answer.field(b"cache-control") == b"no-store"
        assert answer.field(b"x-content-type-options") == b"nosniff"
        assert answer.field(b"x-request-id") == b"mine-1"


def test_the_configuration() -> None:
    """It is shown as it is given."""
    tree = AdminTree()
    answer = tree.ask("GET", "/admin/config")
    assert answer.json["data"] == {"config": {"admin": {"token": "(hidden)"}}}


def test_the_document() -> None:
    """It is served bare: its readers know no envelope."""
    answer = AdminTree().ask("GET", "/admin/openapi.json")
    assert answer.json["openapi"] == "3.1.0"
    assert "/admin/keys/create" in answer.json["paths"]


# bodies


@pytest.mark.parametrize("body", [b"", b"nope", b"[]", b'{"limit": 0}'])
def test_wrong_bodies(body: bytes) -> None:
    """They are refused, and their bytes given back."""
    tree = AdminTree()
    answer = tree.send(post(body, WITH_TOKEN, path="/admin/keys/list"))
    assert answer.status == 400
    assert tree.keys.outage.asked == 0


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_media_types(media_type: str) -> None:
    """It is read as JSON whatever it is called."""
    lines = (f"Content-Type: {media_type}",) if media_type else ()
    assert AdminTree().post("/admin/keys/list", {}, *lines).status == 200


def test_chunked_bodies() -> None:
    """They come in pieces, too."""
    tree = AdminTree()
    raw = post_chunked(b'{"lim', b'it": 7}', path="/admin/keys/list")
    answer = tree.send(raw.replace(b"\r\n", f"\r\n{WITH_TOKEN}\r\n".encode(), 1))
    assert answer.json["data"]["limit"] == 7


def test_bodies_over_the_limit() -> None:
    """They are refused as soon as their length is known, and the connection closes."""
    tree = AdminTree()
    with tree.edge() as edge:
        client = edge.connect()
        client.send(
            get(
                "/admin/keys/sync",
                WITH_TOKEN,
                "Content-Length: 200001",
                "Connection: keep-alive",
                method="POST",
            )
        )
        answer = client.answer("POST")
        assert (answer.status, answer.json["code"]) == (413, "request_too_large")
        assert client.is_closed
        edge.linger_out()


def test_the_budget() -> None:
    """Bodies that all requests together may not hold are refused for now."""
    tree = AdminTree()
    tree.budget.limit_bytes = 10
    with tree.edge() as edge:
        client = edge.connect().send(post(b'{"limit": 5}', WITH_TOKEN, path="/admin/keys/list"))
        answer = client.answer("POST")
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        edge.linger_out()
    assert tree.budget.taken_bytes == 0


def test_a_body_that_never_comes() -> None:
    """It is given up after a while, in the envelope."""
    tree = AdminTree()
    with tree.edge() as edge:
        client = edge.connect()
        client.send(get("/admin/keys/list", WITH_TOKEN, "Content-Length: 10", method="POST") + b"{")
        edge.advance(*[1.0] * 40)
        answer = client.answer("POST")
        assert (answer.status, answer.json["code"]) == (408, "request_timeout")
        edge.linger_out()
    assert tree.budget.taken_bytes == 0


# clients that leave, and faults


def test_leaving_while_the_body_comes() -> None:
    """Nothing is done and nothing stays taken."""
    tree = AdminTree()
    with tree.edge() as edge:
        client = edge.connect()
        client.send(
            get("/admin/keys/create", WITH_TOKEN, "Content-Length: 20", method="POST") + b'{"name'
        )
        assert tree.budget.taken_bytes == 6
        client.leave()
    assert tree.budget.taken_bytes == 0
    assert tree.keys.outage.asked == 0


def test_leaving_while_something_is_looked_up() -> None:
    """What it waits for is cancelled."""
    tree = AdminTree()
    tree.totals.outage.silent = []
    with tree.edge() as edge:
        client = edge.connect().send(post(b"{}", WITH_TOKEN, path="/admin/usage/summary"))
        (waiting,) = tree.totals.outage.silent
        assert not waiting.called
        client.leave()
        assert waiting.called
        assert client.received == b""
    assert tree.budget.taken_bytes == 0


def test_leaving_while_something_is_changed() -> None:
    """It is done to its end, its second half as well."""
    tree = AdminTree()
    tree.done("/admin/keys/create", {"total_quota": 10})
    tree.keys.outage.silent = []
    with tree.edge() as edge:
        body = b'{"id": "key_1", "name": "Ada", "used_quota": 5}'
        client = edge.connect().send(post(body, WITH_TOKEN, path="/admin/keys/update"))
        waiting = tree.keys.outage.silent
        client.leave()
        assert not waiting[0].called
        tree.keys.outage.silent = None
        waiting[0].callback(None)
    assert tree.keys.kept["key_1"].record.name == "Ada"
    assert tree.limiter.used == {"key_1": 5}
    assert tree.budget.taken_bytes == 0


def test_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered without its inner life."""
    tree = AdminTree()

    def broken(wanted: object) -> Any:
        raise ValueError("sk-canary")

    monkeypatch.setattr(tree.keys, "list", broken)
    answer = tree.post("/admin/keys/list", {})
    assert answer.status == 500
    assert b"canary" not in answer.body


def test_several_requests_on_a_connection() -> None:
    """Each is answered, the refused ones too."""
    tree = AdminTree()
    with tree.edge() as edge:
        client = edge.connect().send(
            post(b"{}", WITH_TOKEN, path="/admin/keys/list")
            + post(b"{}", path="/admin/keys/list")
            + get("/nowhere", WITH_TOKEN)
            + get("/admin/backends", WITH_TOKEN)
        )
        statuses = [answer.status for answer in client.answers("POST", "POST")]
        assert statuses == [200, 401, 404, 200]


def test_its_repr_shows_no_token() -> None:
    """Nor anything else that is secret."""
    tree = AdminTree()
    tree.totals.totals = [({}, UsageTotal())]
    assert repr(tree.root) == "<AdminRoot 17 paths>"
