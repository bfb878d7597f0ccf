"""The gate: which tokens are taken, and what happens to who shows wrong ones."""

from __future__ import annotations

import pytest

from tests.edge import get, post
from tests.resources.admin.tree import TOKEN, WITH_TOKEN, AdminTree

PATH = "/admin/backends"


@pytest.mark.parametrize(
    "lines",
    [
        (f"X-Admin-Token: {TOKEN}",),
        (f"x-admin-token: {TOKEN}",),
        (f"X-ADMIN-TOKEN:\t {TOKEN} \t",),
        (f"X-Admin-Token: {TOKEN}", "Authorization: Bearer other"),
    ],
)
def test_the_token(lines: tuple[str, ...]) -> None:
    """It is taken however the field is spelled, and whatever stands in others."""
    tree = AdminTree()
    assert tree.send(get(PATH, *lines), "GET").status == 200
    assert tree.throttle.failed == {}


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (f"Authorization: Bearer {TOKEN}",),
        (f"X-API-Key: {TOKEN}",),
        (f"Cookie: X-Admin-Token={TOKEN}",),
        (f"X-Admin-Tokens: {TOKEN}",),
        ("X-Admin-Token:",),
        ("X-Admin-Token:   ",),
    ],
)
def test_no_token(lines: tuple[str, ...]) -> None:
    """Who shows none has not guessed either."""
    tree = AdminTree()
    answer = tree.send(get(PATH, *lines), "GET")
    assert answer.status == 401
    assert answer.field(b"www-authenticate") == b"X-Admin-Token"
    assert tree.throttle.failed == {}


@pytest.mark.parametrize(
    "lines",
    [
        ("X-Admin-Token: wrong",),
        (f"X-Admin-Token: {TOKEN.upper()}",),
        (f"X-Admin-Token: {TOKEN[:-1]}",),
        (f"X-Admin-Token: {TOKEN}x",),
        (f"X-Admin-Token: Bearer {TOKEN}",),
        (f'X-Admin-Token: "{TOKEN}"',),
        (f"X-Admin-Token: {TOKEN[:5]} {TOKEN[5:]}",),
        (f"X-Admin-Token: {TOKEN}, {TOKEN}",),
        ("X-Admin-Token: schlüssel",),
        (f"X-Admin-Token: {TOKEN}\xa0",),
        (f"X-Admin-Token: {TOKEN}", f"X-Admin-Token: {TOKEN}"),
        (f"X-Admin-Token: {TOKEN}", "X-Admin-Token: wrong"),
        ("X-Admin-Token:", f"X-Admin-Token: {TOKEN}"),
        (f"X-Admin-Token: {'x' * 20_000}",),
    ],
)
def test_a_wrong_token(lines: tuple[str, ...]) -> None:
    """It is refused and counted; and nothing of it is in the answer."""
    tree = AdminTree()
    answer = tree.send(get(PATH, *lines), "GET")
    assert answer.status == 401
    assert TOKEN.encode() not in answer.body
    assert tree.throttle.failed == {"192.0.2.7": 1}


def test_a_token_of_a_megabyte() -> None:
    """The parser refuses it before anybody compares."""
    tree = AdminTree()
    with tree.edge() as edge:
        client = edge.connect().send(get(PATH, f"X-Admin-Token: {'x' * (1 << 20)}"))
        assert client.answer().status == 431
        edge.linger_out()
    assert tree.throttle.failed == {}


def test_nothing_is_learned_without_a_token() -> None:
    """Every path, method and body gets the same answer, and the body is not read."""
    tree = AdminTree()
    bodies = set()
    for path in (PATH, "/admin/keys/create", "/nowhere", "/", "*", "/admin/openapi.json"):
        for method in ("GET", "OPTIONS", "DELETE", "TRACE"):
            answer = tree.send(get(path, method=method), method)
            assert answer.status == 401
            assert answer.field(b"allow") == b""
            bodies.add(answer.body)
    answer = tree.send(post(b"x" * 50_000, path="/admin/keys/create"))
    assert answer.status == 401
    bodies.add(answer.body)
    assert len(bodies) == 1
    assert tree.keys.outage.asked == 0


def test_guessing() -> None:
    """After some wrong tokens an address waits with further ones; the right one always opens."""
    tree = AdminTree(failures=3)
    wrong = get(PATH, "X-Admin-Token: wrong")
    assert [tree.send(wrong, "GET").status for _ in range(5)] == [401, 401, 401, 429, 429]
    answer = tree.send(wrong, "GET")
    assert (answer.status, answer.field(b"retry-after")) == (429, b"8")
    assert tree.ask("GET", PATH).status == 200
    assert tree.throttle.failed == {"192.0.2.7": 3}
    assert tree.send(get(PATH, WITH_TOKEN), "GET", ip="192.0.2.8").status == 200


def test_no_token_stays_unblocked() -> None:
    """Requests without a token block nobody: they may be anyone's probe."""
    tree = AdminTree(failures=1)
    for _ in range(5):
        assert tree.send(get(PATH), "GET").status == 401
    assert tree.ask("GET", PATH).status == 200
