"""Tests of `llmproxy.commands.key_lookup`, by way of ``llmproxy keys get``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.commands.conftest import Operator


def test_a_key_is_found_by_what_is_known_of_it(operator: Operator, tmp_path: Path) -> None:
    """Its id, the start of its id, its name, or itself."""
    alice = operator.fake.add("sk-secret-of-alice", name="alice").id
    operator.fake.add("sk-secret-of-bob", name="bob")
    file = tmp_path / "key"
    file.write_text("sk-secret-of-alice\n")
    for words in (
        (alice,),
        (alice[:9],),
        (f"{alice[:9]}…",),
        ("alice",),
        ("--key-file", str(file)),
    ):
        assert operator.gives("keys", "get", *words)["id"] == alice
    assert (
        operator.gives("keys", "get", "--key-file", "-", stdin="sk-secret-of-alice")["id"] == alice
    )


def test_what_fits_several_keys_fits_none(operator: Operator) -> None:
    """They are told, so that one can be chosen."""
    one, two = (operator.fake.add(name="alice").id for _ in range(2))
    words = operator.fails(1, "keys", "get", "alice")
    assert words == f"Error: that fits 2 keys: {two} (alice), {one} (alice); want an id\n"
    for _ in range(5):
        operator.fake.add(name="alice")
    assert "that fits 7 keys: " in operator.fails(1, "keys", "get", "key_")
    assert ", ...; want an id" in operator.fails(1, "keys", "get", "key_")


def test_a_name_fits_as_a_whole_only(operator: Operator) -> None:
    """The start of a name might be another's tomorrow; so might a part of an id."""
    key = operator.fake.add(name="alice").id
    for wanted in ("ali", "ALICE", key[4:]):
        assert operator.fails(1, "keys", "get", wanted) == "Error: no key has that id or name\n"


def test_a_key_in_the_place_of_its_id_is_not_repeated(operator: Operator) -> None:
    """It is said where it belongs."""
    operator.fake.add("sk-secret-of-alice")
    words = operator.fails(1, "keys", "get", "sk-secret-of-alice")
    assert words == "Error: no key has that id or name; a key itself goes into --key-file\n"


def test_a_key_nobody_knows(operator: Operator) -> None:
    """The API says so."""
    words = operator.fails(1, "keys", "get", "--key-file", "-", stdin="sk-unknown")
    assert words == "Error: There is no such key.\n"


def test_one_way_of_naming_it(operator: Operator) -> None:
    """Neither none nor two."""
    for words in ((), ("key_1", "--key-file", "x")):
        assert "want an ID, or --key-file FILE" in operator.fails(2, "keys", "get", *words)


def test_other_refusals_are_not_taken_for_a_missing_key(operator: Operator) -> None:
    """What is wrong with the text itself is the API's to say."""
    words = operator.fails(1, "keys", "get", "k" * 300)
    assert words == "Error: search must be printable text of at most 256 characters.\n"


def test_an_id_is_stronger_than_a_name(operator: Operator) -> None:
    """Nobody takes a key's place by calling another one by its id."""
    key = operator.fake.add(name="alice").id
    operator.fake.add(name=key)
    assert operator.gives("keys", "get", key)["name"] == "alice"


def test_keys_that_go_while_pages_are_read(operator: Operator) -> None:
    """No other key is missed for it; an export without it would have it deleted elsewhere."""
    ids = [operator.fake.add(name=f"k{number}").id for number in range(250)]
    answer = operator.fake.answer

    def answer_and_delete(*request: Any) -> tuple[int, bytes]:
        answered = answer(*request)
        for _ in range(3):
            if len(operator.fake.stored) > 240:
                operator.fake.stored.pop(next(reversed(operator.fake.stored)))
        return answered

    operator.fake.answer = answer_and_delete  # type: ignore[assignment, method-assign]
    shown = {json.loads(line)["id"] for line in operator.does("keys", "export").splitlines()}
    assert set(ids[:240]) <= shown


def test_every_page_is_read(operator: Operator) -> None:
    """The one that fits may be the oldest of many."""
    oldest = operator.fake.add(name="alice").id
    for number in range(250):
        operator.fake.add(name=f"alice-{number}")
    assert operator.gives("keys", "get", "alice")["id"] == oldest
    assert [asked["offset"] for asked in operator.asked("keys/list")] == [0, 100, 200]
