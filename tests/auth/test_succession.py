"""Tests of `llmproxy.auth.succession`: what one pipeline leaves to the next."""

from __future__ import annotations

from typing import Any

import pytest

from llmproxy.auth.pipeline import from_config
from llmproxy.auth.succession import Pipeline, revoked
from llmproxy.config.model_auth import Auth, Provider, StaticKey
from llmproxy.errors import GatewayError, InvalidApiKey, KeyDisabled, KeyExpired
from tests.auth.fakes import outcome
from tests.auth.test_pipeline import BUILTIN, IP, REDIS, Place, listed, static

NOW_S = 1000.0


def pipeline(
    *keys: StaticKey, more: tuple[Provider, ...] = (), api_keys: tuple[StaticKey, ...] = ()
) -> Pipeline:
    """Make a pipeline of listed keys."""
    auth = Auth(pipeline=(static("s", *keys), *more), storage="file" if api_keys else "")
    made = from_config(auth, api_keys, secret=b"s" * 16, now=lambda: NOW_S)
    assert made is not None
    return made


def gone(before: Pipeline, after: Pipeline) -> dict[str, type[GatewayError]]:
    """Say which principals lost their keys, and why."""
    return {key_id: type(error) for key_id, error in revoked(before, after, NOW_S)}


def id_of(one: Pipeline, key: str) -> str:
    """Give the id of a key's principal."""
    key_id: str = outcome(one.authenticator.authenticate(key, IP)).key_id
    return key_id


@pytest.mark.parametrize(
    ("after", "error"),
    [
        ((listed("a"), listed("b")), None),
        ((listed("b"), listed("a", "renamed")), None),
        ((listed("b"),), InvalidApiKey),
        ((listed("b"), listed("a", status="disabled")), KeyDisabled),
        ((listed("b"), listed("a", expires_at=NOW_S)), KeyExpired),
    ],
)
def test_keys_that_left_the_file(
    after: tuple[StaticKey, ...], error: type[GatewayError] | None
) -> None:
    """Those that are not there any more, or are refused now; a new name makes no other key."""
    before = pipeline(listed("a"), listed("b"))
    expected = {} if error is None else {id_of(before, "a"): error}
    assert gone(before, pipeline(*after)) == expected


def test_a_key_may_move_within_the_file() -> None:
    """From one list to the short form is no loss."""
    assert gone(pipeline(listed("a")), pipeline(api_keys=(listed("a"),))) == {}


def test_what_was_refused_before_is_no_loss() -> None:
    """Nobody runs with it."""
    before = pipeline(listed("a", status="disabled"), listed("b", expires_at=NOW_S - 1))
    assert gone(before, pipeline()) == {}


def renewed(place: Place, *providers: Provider, **options: Any) -> Place:
    """Make the pipeline that follows a place's, over the same stores."""
    return Place(*providers, before=place.pipeline, lookups=place.lookups, **options)


def test_what_was_said_of_keys_outlives_a_change_elsewhere() -> None:
    """A source whose settings and store stay need not be asked again."""
    place = Place(REDIS, static("s", listed("x")))
    place.in_redis("1", name="one")
    assert place.ask("1").key_name == "one"
    place.redis.held.clear()
    after = renewed(place, static("s", listed("y")), REDIS)
    assert after.ask("1").key_name == "one"
    assert after.ask("x") is InvalidApiKey
    assert after.pipeline.asked[0] is place.pipeline.asked[0]


def test_other_settings_begin_anew() -> None:
    """So does a source over another store, and one among sources that must agree."""
    place = Place(REDIS, BUILTIN)
    place.in_redis("1", name="one")
    assert place.ask("1").key_name == "one"
    other = Provider(name="cache2", type="redis", redis=REDIS.redis)
    after = renewed(place, other, BUILTIN)
    assert after.pipeline.asked[0] is not place.pipeline.asked[0]
    assert after.pipeline.asked[1] is place.pipeline.asked[1]
    assert Place(REDIS, before=place.pipeline).pipeline.asked[0].store is not place.redis
    assert renewed(place, REDIS, BUILTIN, mode="all").pipeline.asked == ()
