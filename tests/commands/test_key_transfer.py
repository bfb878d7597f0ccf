"""Tests of `llmproxy.commands.key_transfer`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.commands.conftest import Operator


def test_there_and_back(operator: Operator, tmp_path: Path) -> None:
    """What was exported makes the same keys again, under the same hashes."""
    operator.fake.add("sk-secret-1", name="alice", total_quota=100, quota_reset_period="daily")
    operator.fake.add("sk-secret-2", name="bob", status="disabled", rate_limit={"burst_size": 3})
    before = {one.digest: one.record for one in operator.fake.stored.values()}
    file = tmp_path / "keys.jsonl"
    assert operator.does("keys", "export", str(file)) == f"2 keys written to {file}\n"
    assert "sk-secret" not in file.read_text()
    operator.fake.stored.clear()
    assert operator.does("keys", "import", str(file)) == (
        "2 keys created, 0 keys updated, 0 keys deleted\n"
    )
    assert {one.digest: one.record for one in operator.fake.stored.values()} == before


def test_an_export_is_its_owners(operator: Operator, tmp_path: Path) -> None:
    """Nobody else may read it; one that was there is replaced, and nothing else is left."""
    operator.fake.add(name="alice")
    file = tmp_path / "keys.jsonl"
    file.write_text("old")
    file.chmod(0o644)
    assert operator.gives("keys", "export", str(file)) == {"keys": 1}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["name"] == "alice"
    assert {path.name for path in tmp_path.iterdir()} == {"keys.jsonl", "llmproxy.yaml"}


def test_an_export_to_standard_output(operator: Operator) -> None:
    """One line for each key, and nothing beside."""
    for number in range(120):
        operator.fake.add(name=f"key-{number}")
    lines = operator.does("keys", "export").splitlines()
    assert {json.loads(line)["name"] for line in lines} == {f"key-{n}" for n in range(120)}


def test_an_export_to_nowhere(operator: Operator, tmp_path: Path) -> None:
    """It is told why."""
    words = operator.fails(2, "keys", "export", str(tmp_path / "none" / "keys"))
    assert "cannot be written: No such file or directory" in words


def test_an_import_adds_and_changes(operator: Operator) -> None:
    """And deletes nothing."""
    kept = operator.fake.add("sk-secret-1", name="alice").id
    operator.fake.add("sk-secret-2", name="bob")
    text = '{"key": "sk-secret-1", "name": "alicia"}\n{"key": "sk-secret-3"}\n'
    counts = operator.gives("keys", "import", "-", stdin=text)
    assert counts == {"created": 1, "updated": 1, "deleted": 0}
    assert operator.fake.stored[kept].record.name == "alicia"
    assert len(operator.fake.stored) == 3


def test_a_large_import_goes_in_parts(operator: Operator) -> None:
    """Each part is one request; the counts are those of all."""
    text = "".join(f'{{"key": "sk-secret-{number}"}}\n' for number in range(2100))
    counts = operator.gives("keys", "import", "-", stdin=text)
    assert counts == {"created": 2100, "updated": 0, "deleted": 0}
    assert [len(asked["keys"]) for asked in operator.asked("keys/sync")] == [1000, 1000, 100]
    assert {asked["mode"] for asked in operator.asked("keys/sync")} == {"incremental"}


def test_an_import_that_breaks_off_says_how_far_it_came(operator: Operator) -> None:
    """What was taken over stays."""
    keys = [{"key": f"sk-secret-{number}"} for number in range(1000)]
    words = operator.fails(1, "keys", "import", "-", stdin=json.dumps([*keys, {"key": "short"}]))
    assert words.startswith("the first 1,000 keys of - were taken over\nError: keys[0].key must")
    assert len(operator.fake.stored) == 1000


@pytest.mark.parametrize("words", [("sync", "-"), ("import", "-", "--full")])
def test_a_full_synchronisation_deletes_the_others(
    operator: Operator, words: tuple[str, ...]
) -> None:
    """In one request, and only when that was meant."""
    operator.fake.add("sk-secret-1")
    operator.fake.add("sk-secret-2")
    text = '{"key": "sk-secret-2"}'
    assert "--yes does it without asking" in operator.fails(2, "keys", *words, stdin=text)
    assert len(operator.fake.stored) == 2
    counts = operator.gives("keys", *words, "--yes", stdin=text)
    assert counts == {"created": 0, "updated": 1, "deleted": 1}
    assert [asked["mode"] for asked in operator.asked("keys/sync")] == ["full"]


def test_a_synchronisation_may_be_incremental(operator: Operator) -> None:
    """In the API's words."""
    operator.fake.add("sk-secret-1")
    words = ("keys", "sync", "-", "--mode", "incremental")
    assert operator.gives(*words, stdin='{"key": "sk-secret-2"}')["deleted"] == 0


@pytest.mark.parametrize("text", ["[]", "key,name\n"])
def test_an_empty_file_deletes_nothing(operator: Operator, text: str) -> None:
    """A file that was written wrongly must not lock everybody out."""
    operator.fake.add("sk-secret-1")
    words = operator.fails(2, "keys", "sync", "-", "--yes", stdin=text)
    assert "- has no keys; that would delete all there are" in words
    assert operator.gives("keys", "import", "-", stdin=text)["created"] == 0
    assert len(operator.fake.stored) == 1


def test_a_file_that_cannot_be_used(operator: Operator, tmp_path: Path) -> None:
    """Nothing is sent."""
    file = tmp_path / "keys.csv"
    file.write_text("sk-secret-1\n")
    words = operator.fails(2, "keys", "import", str(file))
    assert f"{file}: line 1: names no column" in words
    assert "sk-secret" not in words
    assert operator.fake.asked == []
