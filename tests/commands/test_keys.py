"""Tests of `llmproxy.commands.keys`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import attrs
import click
import pytest

from llmproxy.commands.keys import confirm
from tests.commands.conftest import Operator


def test_a_key_is_made_and_shown_once(operator: Operator) -> None:
    """What holds for it, then the key on a line of its own, then what to do with it."""
    words = "keys create --name alice --user alice@example.org --quota 20M --reset monthly"
    output = operator.does(*words.split(), "--metadata", "team=core", "--metadata", "room=")
    (stored,) = operator.fake.stored.values()
    lines = output.splitlines()
    assert lines[0] == f"id        {stored.record.id}"
    assert "quota     0 of 20,000,000 tokens used (0%), monthly" in lines
    assert lines.count("sk-llmp-Made000000000000") == 1
    assert output.count("sk-llmp-Made000000000000") == 1
    assert "not shown again" in lines[-2]
    assert operator.asked("keys/create") == [
        {
            "name": "alice",
            "user_id": "alice@example.org",
            "total_quota": 20_000_000,
            "quota_reset_period": "monthly",
            "metadata": {"team": "core"},
        }
    ]
    assert "sk-llmp-Made000000000000" not in operator.does("keys", "get", "alice")


def test_a_key_for_a_script(operator: Operator) -> None:
    """The key alone, or the API's object with it."""
    assert operator.does("keys", "create", "--quiet") == "sk-llmp-Made000000000000\n"
    assert operator.gives("keys", "create")["key"] == "sk-llmp-Made000000000001"


def test_a_key_that_exists_is_taken_over(operator: Operator, tmp_path: Path) -> None:
    """From a file, and it is not printed again."""
    file = tmp_path / "key"
    file.write_text("sk-secret-old\n")
    output = operator.does("keys", "create", "--name", "alice", "--key-file", str(file))
    assert "sk-secret-old" not in output
    assert "key      taken over" in output
    assert operator.gives("keys", "get", "--key-file", str(file))["name"] == "alice"
    words = operator.fails(1, "keys", "create", "--key-file", "-", stdin="sk-secret-old")
    assert words == "Error: That key is there already.\n"


def test_keys_are_listed(operator: Operator) -> None:
    """The newest first; how many more there are is said."""
    for name in ("alice", "bob", "carol"):
        operator.fake.add(name=name, user_id=f"{name}@example.org")
    lines = operator.does("keys", "list").splitlines()
    assert lines[0].split()[:6] == ["ID", "KEY", "NAME", "USER", "STATUS", "USED/QUOTA"]
    assert [line.split()[2] for line in lines[1:]] == ["carol", "bob", "alice"]
    lines = operator.does("keys", "list", "--limit", "2").splitlines()
    assert lines[3:] == ["", "2 of 3 keys; --all shows all"]
    assert max(map(len, operator.does("keys", "list", columns=80).splitlines())) <= 80


def test_an_empty_list_says_so(operator: Operator) -> None:
    """Below the heading."""
    assert operator.does("keys", "list").endswith("\n\nno keys\n")


def test_a_list_may_be_narrowed(operator: Operator) -> None:
    """By whose they are, by what was set, by a text."""
    operator.fake.add(name="alice", user_id="a")
    operator.fake.add(name="bob", user_id="b", status="disabled")

    def names(*words: str) -> list[str]:
        return [key["name"] for key in operator.gives("keys", "list", *words)["keys"]]

    assert names("--user", "a") == ["alice"]
    assert names("--status", "disabled") == ["bob"]
    assert names("--search", "BO") == ["bob"]
    assert names("--search", "nobody") == []


def test_a_list_may_be_longer_than_a_page(operator: Operator) -> None:
    """No more is asked for than is wanted."""
    for _ in range(230):
        operator.fake.add()
    assert len(operator.gives("keys", "list")["keys"]) == 20
    listed = operator.gives("keys", "list", "--limit", "150")
    assert (len(listed["keys"]), listed["total"], listed["limit"]) == (150, 230, 150)
    assert len(operator.gives("keys", "list", "--all")["keys"]) == 230
    asked = [(one["offset"], one["limit"]) for one in operator.asked("keys/list")]
    assert asked == [(0, 20), (0, 100), (100, 50), (0, 100), (100, 100), (200, 100)]


def test_what_is_named_changes_and_nothing_else(operator: Operator) -> None:
    """Limits one by one, metadata one by one, lists as a whole."""
    key = operator.fake.add(
        name="alice",
        total_quota=100,
        quota_reset_period="daily",
        allowed_models=["a", "b"],
        rate_limit={"burst_size": 3, "max_concurrent": 2},
        metadata={"team": "core", "room": "7"},
    ).id
    words = "--model c --burst default --requests-per-minute 60 --metadata team=edge --used 40"
    after = operator.gives("keys", "update", "alice", *words.split(), "--metadata", "room=")
    assert after["allowed_models"] == ["c"]
    assert after["rate_limit"] == {
        "requests_per_second": None,
        "requests_per_minute": 60,
        "tokens_per_minute": None,
        "max_concurrent": 2,
        "burst_size": None,
    }
    assert after["metadata"] == {"team": "edge"}
    assert (after["total_quota"], after["used_quota"]) == (100, 40)
    assert (after["id"], after["name"]) == (key, "alice")
    assert "quota    40 of 100 tokens used (40%), daily" in operator.does(
        "keys", "update", "alice", "--no-metadata"
    )


def test_what_was_said_of_a_key_can_be_taken_back(operator: Operator) -> None:
    """All of it."""
    operator.fake.add(
        name="alice",
        total_quota=100,
        starts_at="2026-01-01T00:00:00Z",
        expires_at="2099-01-01T00:00:00Z",
        allowed_models=["a"],
        allowed_ips=["::1"],
        denied_ips=["::2"],
        metadata={"a": "b"},
    )
    flags = "--no-quota --no-start --no-expiry --any-model --no-allow-ip --no-deny-ip --no-metadata"
    after = operator.gives("keys", "update", "alice", *flags.split(), "--name", "")
    for field in ("total_quota", "starts_at", "expires_at"):
        assert after[field] is None
    for field in ("allowed_models", "allowed_ips", "denied_ips", "metadata", "name"):
        assert not after[field]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", "nothing to change"),
        ("--no-quota --quota 5", "--no-quota contradicts another option"),
        ("--any-model --model a", "--any-model contradicts another option"),
        ("--no-metadata --metadata a=b", "--no-metadata contradicts another option"),
    ],
)
def test_a_change_that_says_nothing_or_two_things(
    operator: Operator, words: str, wanted: str
) -> None:
    """Nothing is sent."""
    assert wanted in operator.fails(2, "keys", "update", "alice", *words.split())
    assert operator.fake.asked == []


def test_off_and_on(operator: Operator) -> None:
    """By what is known of the key, the key itself as well: for one that leaked."""
    key = operator.fake.add("sk-secret-1", name="alice").id
    words = ("keys", "disable", "--key-file", "-")
    assert operator.does(*words, stdin="sk-secret-1\n") == f"{key} (alice) is disabled\n"
    assert operator.fake.stored[key].record.status == "disabled"
    assert operator.does("keys", "enable", key) == f"{key} (alice) is active\n"
    assert operator.gives("keys", "disable", "alice")["status_text"] == "disabled"


def test_on_is_not_enough_for_a_key_that_has_ended(operator: Operator) -> None:
    """It is said what is in its way."""
    operator.fake.add(name="alice", expires_at="2020-01-01T00:00:00Z", status="disabled")
    output = operator.does("keys", "enable", "alice")
    assert "is expired\nIt is switched on, but" in output


def test_deleting_asks_first(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal; elsewhere it must be said in advance."""
    key = operator.fake.add(name="alice").id
    assert "--yes does it without asking" in operator.fails(2, "keys", "delete", "alice")
    assert key in operator.fake.stored
    assert operator.does("keys", "delete", "alice", "--yes") == f"{key} (alice) is deleted\n"
    assert operator.fake.stored == {}
    key = operator.fake.add().id
    assert operator.gives("keys", "delete", key, "--yes") == {"id": key}


def test_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Yes goes on, no ends the command."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(click.termui, "visible_prompt_func", lambda _: "y")
    confirm("Really?", False)
    monkeypatch.setattr(click.termui, "visible_prompt_func", lambda _: "n")
    with pytest.raises(click.Abort):
        confirm("Really?", False)


def test_a_terminal_obeys_no_name(operator: Operator) -> None:
    """Whoever named a key, and however that name came into the store."""
    record = operator.fake.add(user_id="u")
    stored = operator.fake.stored[record.id]
    named = attrs.evolve(record, name="a\x1b[2J\nb")
    operator.fake.stored[record.id] = attrs.evolve(stored, record=named)
    for words in ("list", f"get {record.id}", f"disable {record.id}", f"delete --yes {record.id}"):
        output = operator.does("keys", *words.split())
        assert "\x1b" not in output
        assert "a?[2J?b" in output


def test_an_answer_that_nobody_knows(operator: Operator) -> None:
    """A daemon of another version; what it said can still be seen."""
    answer = b'{"success": true, "message": "", "data": {"id": 5}}'
    operator.fake.answers["/admin/keys/create"] = (200, answer)
    assert "another version" in operator.fails(3, "keys", "create")
    assert operator.gives("keys", "create") == {"id": 5}
