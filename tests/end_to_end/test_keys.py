"""A key's life through the real daemon, its command and its admin API: made, used, spent, taken."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.end_to_end.entitled import Entitled, entitled_config
from tests.end_to_end.node_clients import OpenCode
from tests.scripted_backend import Connection, ScriptedBackend, event

DEMO = [{"name": "demo", "url": "demo:"}]
STREAM_S = 3.0


def wait_until(fact: Callable[[], bool], timeout_s: float = 15.0) -> float:
    """Wait until something is so; gives how long that took.

    Raises:
        AssertionError: It never was.
    """
    began_s = time.monotonic()
    while not fact():
        assert time.monotonic() - began_s < timeout_s, "it did not come"
        time.sleep(0.02)
    return time.monotonic() - began_s


def slow_stream(connection: Connection) -> None:
    """Stream an event every tenth of a second."""
    while connection.read_request() is not None:
        connection.stream_head()
        for _ in range(int(STREAM_S * 10)):
            connection.chunk(event('{"choices":[{"index":0,"delta":{"content":"word "}}]}'))
            time.sleep(0.1)
        connection.chunk(event('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'))
        connection.chunk(event("[DONE]"))
        connection.chunk(b"")


def test_the_first_day(tmp_path: Path) -> None:
    """The commands of docs/keys.md: make a key with a budget, use it, watch it, take it back."""
    with Entitled(tmp_path, entitled_config(tmp_path, DEMO)) as gateway:
        words = ["keys", "create", "--name", "alice", "--user", "alice@example.org"]
        words += ["--quota", "20M", "--reset", "monthly", "--quiet"]
        key = gateway.command(*words).strip()
        assert key.startswith("sk-llmp-")
        assert gateway.chat(key).status == 200
        (listed,) = json.loads(gateway.command("keys", "list", "--json"))["keys"]
        assert (listed["name"], listed["total_quota"]) == ("alice", 20_000_000)
        used = listed["used_quota"]
        assert used > 0
        table = gateway.command("keys", "list")
        assert "alice" in table
        assert key not in table
        mine = gateway.get("/me", key).json
        assert mine["quota"]["used"] == used
        assert mine["usage"]["today"]["total_tokens"] == used
        assert "alice" in gateway.command("usage", "--by", "key")
        gateway.command("keys", "disable", "alice")
        refused = gateway.chat(key)
        assert (refused.status, refused.error_code) == (403, "key_disabled")
        gateway.command("keys", "enable", "alice")
        assert gateway.chat(key).status == 200
        gateway.command("keys", "delete", "alice", "--yes")
        assert gateway.chat(key).status == 401
        assert key not in gateway.daemon.log()


@pytest.mark.parametrize("policy", ["finish", "cut"])
def test_taken_back_while_it_streams(tmp_path: Path, policy: str) -> None:
    """The stream ends by the policy, within a second if it is cut; the next request is refused."""
    with ScriptedBackend(slow_stream, models=("m",)) as backend:
        config = entitled_config(tmp_path, [{"name": "b", "url": backend.url}])
        config["auth"]["on_revoke"] = policy
        with Entitled(tmp_path, config) as gateway, ThreadPoolExecutor(1) as pool:
            key, key_id = gateway.new_key(name="bob", total_quota=100_000)
            running = pool.submit(gateway.chat, key, "m", stream=True)
            wait_until(lambda: bool(backend.seen))
            began_s = time.monotonic()
            gateway.command("keys", "disable", "bob")
            refused = gateway.chat(key, "m")
            assert (refused.status, refused.error_code) == (403, "key_disabled")
            answer = running.result(10)
            took_s = time.monotonic() - began_s
            if policy == "finish":
                assert not answer.cut
                assert answer.body.endswith(b"data: [DONE]\n\n")
            else:
                assert answer.cut
                assert took_s < STREAM_S - 0.5
                last = answer.body.split(b"\n\n")[-2].removeprefix(b"data: ")
                assert json.loads(last)["error"]["code"] == "key_disabled"
                assert b"[DONE]" not in answer.body
            wait_until(lambda: gateway.get("/ready", "").json["backends"][0]["in_flight"] == 0)
            assert 0 < gateway.key_now(key_id)["used_quota"] < 1000


def test_a_second_daemon_on_the_same_store(tmp_path: Path) -> None:
    """What one of them is told, the other knows within a second, streams it cuts included."""
    with ScriptedBackend(slow_stream, models=("m",)) as backend:
        config = entitled_config(tmp_path, [{"name": "b", "url": backend.url}])
        config["auth"]["on_revoke"] = "cut"
        other = {
            **entitled_config(tmp_path, config["backends"]),
            "auth": config["auth"],
        }
        with (
            Entitled(tmp_path / "one", config) as one,
            Entitled(tmp_path / "two", other) as two,
            ThreadPoolExecutor(1) as pool,
        ):
            key, key_id = one.new_key(name="carol")
            running = pool.submit(two.chat, key, "m", stream=True)
            wait_until(lambda: bool(backend.seen))
            began_s = time.monotonic()
            assert one.admin("/admin/keys/update", {"id": key_id, "status": 1}).status == 200
            assert running.result(10).cut
            assert time.monotonic() - began_s < STREAM_S - 0.5
            assert two.chat(key, "m").status == 403


def test_a_spent_budget_and_a_restart(tmp_path: Path) -> None:
    """402 in plain words, also after the daemon was stopped and after it was killed."""
    gateway = Entitled(tmp_path, entitled_config(tmp_path, DEMO))
    with gateway:
        key, key_id = gateway.new_key(total_quota=30, quota_reset_period="daily")
        assert gateway.chat(key).status == 200
        used = gateway.key_now(key_id)["used_quota"]
        while gateway.key_now(key_id)["used_quota"] < 30:
            assert gateway.chat(key).status == 200
        refused = gateway.chat(key)
        assert (refused.status, refused.error_code) == (402, "quota_exceeded")
        assert not any(sign.isdigit() for sign in refused.json["error"]["message"])
        spent = gateway.key_now(key_id)
        assert (spent["status_text"], spent["used_quota"] >= 30 > used) == ("quota_exceeded", True)
    with gateway:
        assert gateway.key_now(key_id)["used_quota"] == spent["used_quota"]
        assert gateway.chat(key).status == 402
        gateway.admin("/admin/keys/update", {"id": key_id, "used_quota": 0})
        assert gateway.chat(key).status == 200
        time.sleep(1.2)  # what is counted is written twice a second
        assert gateway.daemon.process is not None
        gateway.daemon.process.kill()
        gateway.daemon.process.wait()
    with gateway:
        assert gateway.key_now(key_id)["used_quota"] > 0


def test_what_a_key_may_do(tmp_path: Path) -> None:
    """Models, addresses, time: each refusal says which."""
    with Entitled(tmp_path, entitled_config(tmp_path, DEMO)) as gateway:
        for fields, status, code in (
            ({"allowed_models": ["other*"]}, 403, "model_not_allowed"),
            ({"allowed_models": ["de*"]}, 200, ""),
            ({"allowed_ips": ["192.0.2.0/24", "2001:db8::/32"]}, 403, "ip_not_allowed"),
            ({"denied_ips": ["127.0.0.0/8"]}, 403, "ip_not_allowed"),
            ({"denied_ips": ["::1"], "allowed_ips": ["127.0.0.1"]}, 200, ""),
            ({"expires_at": "2020-01-01T00:00:00Z"}, 403, "key_expired"),
            ({"starts_at": "2199-01-01T00:00:00+01:00"}, 403, "key_not_started"),
            ({"total_quota": 0}, 402, "quota_exceeded"),
            ({"rate_limit": {"max_concurrent": 1, "requests_per_minute": 1}}, 200, ""),
        ):
            key, _ = gateway.new_key(**fields)
            reply = gateway.chat(key)
            assert reply.status == status, (fields, reply.body)
            if code:
                assert reply.error_code == code
        reply = gateway.chat(key)
        assert (reply.status, reply.error_code) == (429, "rate_limit_exceeded")
        assert 1 <= int(reply.fields["retry-after"]) <= 60
        assert reply.fields["x-ratelimit-limit-requests"] == "1"
        assert reply.fields["x-ratelimit-remaining-requests"] == "0"
        assert reply.fields["x-ratelimit-reset-requests"].endswith("s")


@pytest.mark.node
def test_opencode_under_a_budget(opencode_program: str, tmp_path: Path) -> None:
    """It works with the key, its use is seen, and a disabled key is told to its user at once."""
    with Entitled(tmp_path, entitled_config(tmp_path, DEMO)) as gateway:
        key, key_id = gateway.new_key(
            name="dora", total_quota=1_000_000, quota_reset_period="monthly"
        )
        client = OpenCode(
            opencode_program,
            tmp_path / "client",
            f"{gateway.daemon.url}/v1",
            ["demo"],
            {"apiKey": "{env:LLMPROXY_API_KEY}"},
        )
        (client.project / "notes.txt").write_text("The token is violet.\n")
        prompt = "Read the file notes.txt and tell me the token in it."
        assert "violet" in client.ask("demo", prompt, key).texts()
        assert gateway.key_now(key_id)["used_quota"] > 1000
        assert "dora" in gateway.command("keys", "list")
        gateway.command("keys", "disable", "dora")
        finished = client.ask("demo", prompt, key)
        assert "This API key is disabled." in finished.output
        assert finished.duration_s < 30
