"""The operations on keys: what they change, what they show, and that no log holds a key."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.logger import capturedLogs, formatEvent

from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.key_records import KeyRecord
from tests.resources.admin.tree import AdminTree

CREATE, UPDATE, DELETE, GET, LIST, SYNC = (
    f"/admin/keys/{verb}" for verb in ("create", "update", "delete", "get", "list", "sync")
)
KEY_FIELDS = {
    "id",
    "key",
    "name",
    "user_id",
    "status",
    "status_text",
    "allowed_models",
    "allowed_ips",
    "denied_ips",
    "starts_at",
    "expires_at",
    "total_quota",
    "used_quota",
    "quota_reset_period",
    "quota_resets_at",
    "rate_limit",
    "metadata",
    "created_at",
    "updated_at",
}
"""The contract's."""


def record(tree: AdminTree, key_id: str = "key_1") -> KeyRecord:
    """Give what is stored of a key."""
    return tree.keys.kept[key_id].record


def test_a_new_key() -> None:
    """It is made, shown whole once, and never again."""
    tree = AdminTree()
    key = tree.done(CREATE, {"name": "Ada"})
    assert set(key) == KEY_FIELDS
    assert key["key"] == "sk-llmp-made-for-test-1"
    assert (key["id"], key["status"], key["status_text"]) == ("key_1", 0, "active")
    assert record(tree) == KeyRecord(id="key_1", name="Ada")
    for again in (
        tree.done(GET, {"id": "key_1"}),
        tree.done(GET, {"key": "sk-llmp-made-for-test-1"}),
        tree.done(UPDATE, {"id": "key_1"}),
        tree.done(LIST, {})["keys"][0],
    ):
        assert again == {**key, "key": f"{tree.keys.kept['key_1'].prefix}..."}


def test_a_given_key() -> None:
    """It is taken as it is; a second time it is there already."""
    tree = AdminTree()
    assert tree.done(CREATE, {"key": "an-old-key"})["key"] == "an-old-key"
    status, param, _ = tree.refused(CREATE, {"key": "an-old-key"})
    assert (status, param) == (409, "")
    assert len(tree.keys.kept) == 1


def test_a_new_key_needs_no_limiter() -> None:
    """Its text is in this answer only: nothing may come between the store and the answer."""
    tree = AdminTree()
    tree.limiter.outage.down = True
    key = tree.done(CREATE, {"total_quota": 10, "used_quota": 4, "quota_reset_period": "daily"})
    assert (key["used_quota"], key["quota_resets_at"]) == (4, "2023-11-15T00:00:00Z")


def test_update() -> None:
    """Only what is named changes."""
    tree = AdminTree()
    tree.done(
        CREATE,
        {"name": "Ada", "key": "abcdefghi", "total_quota": 10, "rate_limit": {"burst_size": 2}},
    )
    tree.now_s += 60
    key = tree.done(UPDATE, {"key": "abcdefghi", "status": "disabled", "expires_at": None})
    assert (key["name"], key["status_text"]) == ("Ada", "disabled")
    assert key["updated_at"] > key["created_at"]
    assert record(tree) == KeyRecord(
        id="key_1",
        name="Ada",
        status="disabled",
        quota=Quota(10),
        own_limits=OwnLimits(burst_size=2),
    )


def test_used_quota() -> None:
    """Updating it sets the counter; other updates leave it alone."""
    tree = AdminTree()
    tree.done(CREATE, {"total_quota": 10, "used_quota": 1})
    tree.limiter.used["key_1"] = 9
    assert tree.done(UPDATE, {"id": "key_1", "name": "x"})["used_quota"] == 9
    key = tree.done(UPDATE, {"id": "key_1", "used_quota": 10})
    assert (key["used_quota"], key["status_text"]) == (10, "quota_exceeded")
    assert tree.limiter.used == {"key_1": 10}
    assert tree.done(UPDATE, {"id": "key_1", "used_quota": None})["used_quota"] == 0
    assert tree.limiter.used == {"key_1": 0}
    assert tree.done(UPDATE, {"id": "key_1", "total_quota": None})["used_quota"] == 0


def test_a_refused_update() -> None:
    """It leaves all as it was, the time of the last change too."""
    tree = AdminTree()
    tree.done(CREATE, {"starts_at": "2027-01-01T00:00:00Z"})
    before = tree.keys.kept["key_1"]
    tree.now_s += 60
    wrong = {"id": "key_1", "name": "x", "expires_at": "2026-01-01T00:00:00Z"}
    assert tree.refused(UPDATE, wrong)[:2] == (400, "expires_at")
    assert tree.keys.kept["key_1"] == before


def test_an_update_that_comes_second() -> None:
    """What another change made wrong in between is refused, too."""
    tree = AdminTree()
    tree.done(CREATE, {})
    get = tree.keys.get

    def get_then_change(key_id: str) -> Any:
        found = get(key_id)
        stored = tree.keys.kept[key_id]
        changed = attrs.evolve(stored.record, starts_at_s=4e9)
        tree.keys.kept[key_id] = attrs.evolve(stored, record=changed)
        return found

    tree.keys.get = get_then_change  # type: ignore[method-assign]
    wrong = {"id": "key_1", "expires_at": "2026-01-01T00:00:00Z"}
    assert tree.refused(UPDATE, wrong)[:2] == (400, "expires_at")


def test_a_key_that_goes_away_meanwhile() -> None:
    """It is not there any more."""
    tree = AdminTree()
    tree.done(CREATE, {})
    stored = tree.keys.kept.pop("key_1")
    tree.keys.get = lambda key_id: tree.keys.outage.give(lambda: stored)  # type: ignore[method-assign]
    assert tree.refused(UPDATE, {"id": "key_1"})[0] == 404


def test_delete() -> None:
    """By its id or by itself; the second time there is none."""
    tree = AdminTree()
    for name in ({"id": "key_1"}, {"key": "abcdefghi"}):
        tree.done(CREATE, {"key": "abcdefghi"})
        (key_id,) = tree.keys.kept
        assert tree.done(DELETE, {**name, **({"id": key_id} if "id" in name else {})}) == {
            "id": key_id
        }
        assert tree.keys.kept == {}
        assert tree.refused(DELETE, name)[0] == 404


@pytest.mark.parametrize("path", [GET, UPDATE, DELETE])
@pytest.mark.parametrize("name", [{"id": "key_9"}, {"key": "abcdefghi"}])
def test_unknown_keys(path: str, name: dict[str, str]) -> None:
    """They are not there, and what was asked for is not said again."""
    status, _, message = AdminTree().refused(path, name)
    assert status == 404
    assert next(iter(name.values())) not in message


# lists


def test_pages() -> None:
    """Each key once, the newest first."""
    tree = AdminTree()
    for number in range(45):
        tree.done(CREATE, {"name": f"n{number}"})
    first = tree.done(LIST, {})
    assert (first["total"], first["offset"], first["limit"]) == (45, 0, 20)
    names = [
        key["name"] for offset in (0, 20, 40) for key in tree.done(LIST, {"offset": offset})["keys"]
    ]
    assert names == [f"n{number}" for number in reversed(range(45))]
    assert tree.done(LIST, {"limit": 1000})["limit"] == 100


def test_filters() -> None:
    """By user, by stored status, by text."""
    tree = AdminTree()
    tree.done(CREATE, {"name": "Ada", "user_id": "a"})
    tree.done(CREATE, {"name": "Bob", "user_id": "b", "status": 1})
    for wanted, names in (
        ({"user_id": "b"}, ["Bob"]),
        ({"status": "active"}, ["Ada"]),
        ({"status": 1}, ["Bob"]),
        ({"search": "ADA"}, ["Ada"]),
        ({"search": "nobody"}, []),
        ({"status": None}, ["Bob", "Ada"]),
    ):
        found = tree.done(LIST, wanted)
        assert [key["name"] for key in found["keys"]] == names
        assert found["total"] == len(names)


def test_used_quotas_of_a_page() -> None:
    """They are asked for together, only where there are quotas."""
    tree = AdminTree()
    tree.done(CREATE, {})
    tree.done(LIST, {})
    assert tree.limiter.outage.asked == 0
    for _ in range(3):
        tree.done(CREATE, {"total_quota": 10})
    tree.limiter.used["key_3"] = 10
    keys = {key["id"]: key for key in tree.done(LIST, {})["keys"]}
    assert tree.limiter.outage.asked == 1
    assert keys["key_3"]["status_text"] == "quota_exceeded"
    assert keys["key_2"]["status_text"] == "active"


def test_exported_keys() -> None:
    """With their digests, only when that is asked for."""
    tree = AdminTree()
    tree.done(CREATE, {"expires_at": "2001-01-01T00:00:00Z"})
    (plain,) = tree.done(LIST, {})["keys"]
    (exported,) = tree.done(LIST, {"include_hash": True})["keys"]
    assert set(plain) == KEY_FIELDS
    assert set(exported) == KEY_FIELDS | {"key_hash", "prefix"}
    assert exported["key_hash"] == tree.keys.kept["key_1"].digest.hex()
    assert (plain["status_text"], exported["status_text"]) == ("expired", "active")


# synchronisation


def test_sync() -> None:
    """Full is all there is afterwards; incremental leaves the others."""
    tree = AdminTree()
    keys = [{"key": f"key-number-{number}"} for number in range(3)]
    assert tree.done(SYNC, {"keys": keys, "mode": "incremental"}) == {
        "created": 3,
        "updated": 0,
        "deleted": 0,
    }
    changed = [{**keys[0], "name": "x"}, {"key": "another-key"}]
    assert tree.done(SYNC, {"keys": changed, "mode": "incremental"}) == {
        "created": 1,
        "updated": 1,
        "deleted": 0,
    }
    assert tree.done(SYNC, {"keys": changed}) == {"created": 0, "updated": 2, "deleted": 2}
    assert len(tree.keys.kept) == 2


def test_an_export_can_be_synchronised() -> None:
    """Another store takes what was exported, and knows the same keys."""
    tree, other = AdminTree(), AdminTree()
    tree.done(CREATE, {"key": "abcdefghi", "name": "Ada", "total_quota": 5})
    (exported,) = tree.done(LIST, {"include_hash": True})["keys"]
    for field in ("key", "status_text", "quota_resets_at", "created_at", "updated_at"):
        del exported[field]
    other.done(SYNC, {"keys": [exported]})
    assert other.done(GET, {"key": "abcdefghi"})["name"] == "Ada"


def test_what_was_used_before_counts_at_once() -> None:
    """The limiter hears of it when a key comes, not when the key is used in a later month."""
    tree = AdminTree()
    budget = {"total_quota": 9, "used_quota": 5, "quota_reset_period": "monthly"}
    made = tree.done(CREATE, {"key": "key-number-0", **budget})
    assert tree.limiter.asked == [made["id"]]
    tree.done(CREATE, {"key": "key-number-1", "total_quota": 9})
    keys = [{"key": f"key-number-{number}", **budget} for number in range(2, 300)]
    tree.done(SYNC, {"keys": keys, "mode": "incremental"})
    assert len(set(tree.limiter.asked)) == len(tree.limiter.asked) == 299


def test_a_key_is_shown_though_its_use_cannot_be_told() -> None:
    """It is made, and nobody can ask for it again."""
    tree = AdminTree()
    tree.limiter.outage.down = True
    assert tree.done(CREATE, {"total_quota": 9, "used_quota": 5})["key"]
    tree.done(SYNC, {"keys": [{"key": "key-number-1", "total_quota": 9, "used_quota": 5}]})


def test_many_keys() -> None:
    """They are read and prepared in another thread; a few are not worth it."""
    tree = AdminTree()
    keys = [{"key": f"key-number-{number}", "name": "x" * 200} for number in range(400)]
    assert tree.done(SYNC, {"keys": keys[:100]})["created"] == 100
    assert tree.in_thread == 0
    assert tree.done(SYNC, {"keys": keys[:300]})["created"] == 200
    assert tree.in_thread == 2
    keys[390]["used_quota"] = "x"
    assert tree.refused(SYNC, {"keys": keys})[:2] == (400, "keys[390].used_quota")
    assert tree.in_thread == 3


def test_refused_syncs() -> None:
    """Nothing of them is done; the entry that is wrong is named."""
    tree = AdminTree()
    tree.done(CREATE, {"key": "abcdefghi"})
    before = dict(tree.keys.kept)
    good = {"key": "ghijklmno"}
    for entry, refusal in (
        ({"key": "short"}, (400, "keys[1].key")),
        ({"key": "pqrstuv", "used_quota": 5}, (400, "keys[1].used_quota")),
        (good, (409, "keys")),
    ):
        assert tree.refused(SYNC, {"keys": [good, entry]})[:2] == refusal
        assert tree.keys.kept == before


# outages, and the log


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (CREATE, {}),
        (UPDATE, {"id": "key_1"}),
        (DELETE, {"id": "key_1"}),
        (DELETE, {"key": "abcdefghi"}),
        (GET, {"id": "key_1"}),
        (LIST, {}),
        (SYNC, {"keys": [], "mode": "full"}),
    ],
)
def test_the_store_is_down(path: str, content: object) -> None:
    """It may be tried again."""
    tree = AdminTree()
    tree.keys.outage.down = True
    answer = tree.post(path, content)
    assert (answer.status, answer.field(b"retry-after")) == (503, b"2")


@pytest.mark.parametrize(
    ("path", "content"),
    [(UPDATE, {"id": "key_1", "used_quota": 3}), (GET, {"id": "key_1"}), (LIST, {})],
)
def test_the_limiter_is_down(path: str, content: object) -> None:
    """What is used cannot be said; it may be tried again, and comes out the same."""
    tree = AdminTree()
    tree.done(CREATE, {"total_quota": 5})
    tree.limiter.outage.down = True
    assert tree.post(path, content).status == 503
    tree.limiter.outage.down = False
    assert tree.post(path, content).status == 200


def test_the_log() -> None:
    """Each change is in it with the key's id and the request's; no key, and no looking."""
    tree = AdminTree()
    with capturedLogs() as events:
        key = tree.done(CREATE, {"name": "n-canary"})["key"]
        tree.done(UPDATE, {"key": key, "status": 1, "metadata": {"a": "m-canary"}})
        tree.done(GET, {"key": key})
        tree.done(LIST, {})
        tree.done(SYNC, {"mode": "incremental", "keys": [{"key": "sk-canary-2"}]})
        tree.post(CREATE, {"key": "sk-canary-2"})
        tree.post(DELETE, {"id": "key_1"}, "X-Request-ID: mine-1")
    lines = [formatEvent(event) for event in events if "change" in event]
    texts = [event["change"] for event in events if "change" in event]
    assert texts == [
        "created key key_1",
        "changed key key_1: status, metadata",
        "synchronised keys (incremental): 1 created, 0 updated, 0 deleted",
        "deleted key key_1",
    ]
    assert lines[-1] == "administrator at 192.0.2.7 deleted key key_1"
    everything = "".join(map(formatEvent, events))
    assert "canary" not in everything
    assert key not in everything


def test_no_answer_but_the_first_holds_the_key() -> None:
    """Refusals neither."""
    tree = AdminTree()
    tree.done(CREATE, {"key": "sk-canary-key"})
    for path, content in (
        (CREATE, {"key": "sk-canary-key"}),
        (GET, {"key": "sk-canary-key"}),
        (UPDATE, {"key": "sk-canary-key", "name": "x"}),
        (LIST, {"include_hash": True}),
        (SYNC, {"keys": [{"key": "sk-canary-key"}] * 2}),
        (DELETE, {"key": "sk-canary-key"}),
    ):
        assert b"sk-canary-key" not in tree.post(path, content).body
