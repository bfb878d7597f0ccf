"""The operator's commands against the real daemon: many keys, budgets, backends, and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.entitled import Entitled, entitled_config
from tests.end_to_end.test_keys import wait_until


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Entitled]:
    """Start a daemon with the demo, a key store and the admin API."""
    config = entitled_config(tmp_path, [{"name": "demo", "url": "demo:"}])
    with Entitled(tmp_path, config) as gateway:
        yield gateway


def gives(gateway: Entitled, *words: str) -> Any:
    """Run a command with ``--json``; give what it printed."""
    return json.loads(gateway.command(*words, "--json"))


def is_answered(gateway: Entitled, key: str, status: int) -> None:
    """Wait, for a second at most, until requests with a key are answered so."""
    wait_until(lambda: gateway.chat(key).status == status, 1.0)


def test_a_key_that_leaked_is_found_by_itself(gateway: Entitled, tmp_path: Path) -> None:
    """It stands in a file, so that no list of processes shows it."""
    key, key_id = gateway.new_key(name="alice")
    file = tmp_path / "leaked"
    file.write_text(f"{key}\n")
    said = gateway.command("keys", "disable", "--key-file", str(file))
    assert said == f"{key_id} (alice) is disabled\n"
    is_answered(gateway, key, 403)


def test_a_budget_that_is_spent_and_raised(gateway: Entitled) -> None:
    """402 until there is more of it."""
    key = gateway.command("keys", "create", "--name", "bob", "--quota", "1", "--quiet").strip()
    assert gateway.chat(key).status == 200
    assert gateway.chat(key).status == 402
    assert gives(gateway, "keys", "get", "bob")["status_text"] == "quota_exceeded"
    gateway.command("keys", "update", "bob", "--quota", "1M")
    is_answered(gateway, key, 200)
    gateway.command("keys", "update", "bob", "--used", "1M")
    is_answered(gateway, key, 402)


def test_keys_in_files(gateway: Entitled, tmp_path: Path) -> None:
    """What was exported opens the gateway again; what is not in a full file does not."""
    words = ("keys", "create", "--name", "alice", "--max-concurrent", "2", "--quiet")
    key = gateway.command(*words).strip()
    file = tmp_path / "keys.jsonl"
    gateway.command("keys", "export", str(file))
    assert key not in file.read_text()
    before = gives(gateway, "keys", "get", "alice")
    gateway.command("keys", "delete", "alice", "--yes")
    is_answered(gateway, key, 401)
    other, _ = gateway.new_key(name="other")
    counts = gives(gateway, "keys", "sync", str(file), "--yes")
    assert counts == {"created": 1, "updated": 0, "deleted": 1}
    is_answered(gateway, key, 200)
    is_answered(gateway, other, 401)
    after = gives(gateway, "keys", "get", "alice")
    for field in ("id", "name", "rate_limit", "total_quota", "status"):
        assert after[field] == before[field]
    table = tmp_path / "keys.csv"
    table.write_text("key,name,total_quota\nsk-made-elsewhere,carol,2M\n")
    assert gives(gateway, "keys", "import", str(table))["created"] == 1
    is_answered(gateway, "sk-made-elsewhere", 200)
    assert gives(gateway, "keys", "get", "carol")["total_quota"] == 2_000_000


def test_a_backend_is_taken_out_and_put_back(gateway: Entitled) -> None:
    """It gets no request meanwhile."""
    key, _ = gateway.new_key()
    assert gateway.chat(key).status == 200
    assert gateway.command("backends", "drain", "demo") == "demo is drained\n"
    assert gateway.chat(key).status == 503
    assert gives(gateway, "backends")["backends"][0]["state"] == "drained"
    gateway.command("backends", "enable", "demo")
    assert gateway.chat(key).status == 200
    assert "backend" in gateway.command("backends", "drain", "none", status=1)


def test_usage_by_model_and_key(gateway: Entitled) -> None:
    """As the answers said."""
    key, key_id = gateway.new_key(name="alice")
    tokens = gateway.chat(key).json["usage"]["total_tokens"]
    summary = gives(gateway, "usage", "--by", "key,model", "--key", "alice", "--since", "1d")
    (group,) = summary["groups"]
    assert (group["key_id"], group["key_name"], group["model"]) == (key_id, "alice", "demo")
    assert summary["total"]["total_tokens"] == tokens
    assert gateway.command("usage", "--by", "day").splitlines()[-1].startswith("total ")


def test_who_may_not_and_who_cannot(gateway: Entitled, tmp_path: Path) -> None:
    """A wrong token is refused; a daemon that is gone is told apart from that."""
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token-of-somebody")
    said = gateway.command("keys", "list", "--token-file", str(wrong), status=1)
    assert "is the token that of the running daemon" in said
    gateway.daemon.stop()
    assert "Does the daemon run" in gateway.command("keys", "list", status=3)
