"""Tests of `llmproxy.config.structure`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import attrs
import cattrs
import pytest

from llmproxy.config.findings import Findings
from llmproxy.config.model import Backend, BackendTls, Config, HealthCheck, Retry
from llmproxy.config.model_auth import Auth, Provider, StaticKey
from llmproxy.config.model_stores import Cache, Database, Limits, Storage
from llmproxy.config.scalars import WrongValueError
from llmproxy.config.setting import Duration, Secret, Timestamp, setting
from llmproxy.config.structure import holds_secrets, make_converter, stand_in, structure
from llmproxy.config.yaml_lines import BROKEN


def structured(tree: dict[str, Any]) -> tuple[Config, list[str]]:
    """Structure a tree; give the problems as text, without file and line."""
    findings = Findings("")
    config = structure(tree, findings)
    return config, [str(problem) for problem in findings.error().problems] if findings else []


BACKEND = {"name": "a", "url": "demo:"}


def test_the_least_tree_gives_the_defaults() -> None:
    """Only backends are required."""
    config, told = structured({"backends": [dict(BACKEND)]})
    assert not told
    assert config == Config(backends=(Backend(name="a", url="demo:"),))


def test_every_kind_of_value() -> None:
    """Durations become seconds, sizes bytes, lists tuples and sections their classes."""
    config, told = structured(
        {
            "server": {
                "listen": ":1",
                "workers": 1,
                "max_body_size": "1MiB",
                "idle_timeout": "500ms",
                "trusted_proxies": ["10.0.0.0/8"],
            },
            "backends": [{**BACKEND, "headers": {"X-A": "b"}, "tls": {"verify": False}}],
            "models": [{"id": "m", "context": 5, "output": None, "first_byte_timeout": 3}],
            "auth": {"pipeline": [{"name": "s", "type": "static", "static": {"keys": [{}]}}]},
            "api_keys": [{"key": "k", "expires_at": "1970-01-02", "status": "disabled"}],
            "routing": {"retry": {"multiplier": 3}},
        }
    )
    assert not told
    assert config.server.listen == (":1",)
    assert (config.server.max_body_size, config.server.idle_timeout) == (2**20, 0.5)
    assert config.server.trusted_proxies == ("10.0.0.0/8",)
    assert config.backends[0].headers == {"X-A": "b"}
    assert config.backends[0].tls == BackendTls(verify=False)
    assert (config.models[0].context, config.models[0].output) == (5, None)
    assert config.models[0].first_byte_timeout == Duration(3)
    assert config.auth.pipeline[0].static.keys == (StaticKey(),)
    assert config.api_keys[0].expires_at == Timestamp(86400)
    assert config.routing.retry == Retry(multiplier=3.0)


def test_a_key_may_have_another_name_than_its_attribute() -> None:
    """``global`` is Python's own word; nobody writes ``global_``."""
    tree: dict[str, Any] = {"backends": [BACKEND], "rate_limit": {"global": {"max_concurrent": 5}}}
    config, told = structured(tree)
    assert not told
    assert config.rate_limit.global_ == Limits(max_concurrent=5)
    tree["rate_limit"] = {"global": {"max_concurrent": "x", "burst_size": 7}, "redis": 5}
    config, told = structured(tree)
    assert [one.partition(": ")[0] for one in told] == [
        "rate_limit.redis",
        "rate_limit.global.max_concurrent",
    ]
    assert config.rate_limit.global_ == Limits(burst_size=7)
    assert structured({"backends": [BACKEND], "rate_limit": {"global_": {}}})[1] == [
        'rate_limit.global_: is an unknown key; did you mean "global"?'
    ]


def test_sections_by_name() -> None:
    """What is wrong in one is told at its name, and its other keys are as the file says."""
    per_model = {"a/b": {"max_concurrent": 5, "burst_size": "x"}, "c": 5, "d": None, "e": BROKEN}
    config, told = structured({"backends": [BACKEND], "rate_limit": {"per_model": per_model}})
    assert [one.partition(": ")[0] for one in told] == [
        'rate_limit.per_model["a/b"].burst_size',
        "rate_limit.per_model.c",
    ]
    expected = {"a/b": Limits(max_concurrent=5), "c": Limits(), "d": Limits(), "e": Limits()}
    assert config.rate_limit.per_model == expected


def test_a_section_without_keys_is_its_default() -> None:
    """All keys commented out leave null, for sections as for lists and mappings."""
    config, told = structured(
        {"auth": None, "models": None, "backends": [{**BACKEND, "headers": None}]}
    )
    assert not told
    assert (config.auth, config.models, config.backends[0].headers) == (Auth(), (), {})


def test_what_is_wrong_is_told_and_replaced_by_its_default() -> None:
    """The rest is as the file says."""
    config, told = structured(
        {
            "backends": [{**BACKEND, "weight": "heavy", "timeout": 5}, "x"],
            "health_check": {"interval": 0, "path": 5, "timeout": "2s"},
            "auth": 5,
            "zzz": {"a": 1},
        }
    )
    assert [one.partition(": ")[0] for one in told] == [
        "zzz",
        "backends[0].weight",
        "backends[1]",
        "auth",
        "health_check.interval",
        "health_check.path",
    ]
    assert config.backends == (
        Backend(name="a", url="demo:", timeout=Duration(5)),
        Backend(name="", url=""),
    )
    assert config.health_check == HealthCheck(timeout=Duration(2))


def test_what_is_missing_is_told_and_replaced_by_nothing() -> None:
    """Required keys get stand-ins."""
    config, told = structured({"backends": [{}]})
    assert told == [
        "backends[0].name: is missing; want unique; seen in logs and on /ready",
        'backends[0].url: is missing; want http:// or https://, a path prefix is kept; "demo:" is '
        "the built-in stand-in",
    ]
    assert config.backends == (Backend(name="", url=""),)
    assert structured({})[1] == ["backends: is missing; want the inference servers"]


def test_an_item_of_a_list_that_is_wrong() -> None:
    """It is told by its place, and a stand-in takes it."""
    config, told = structured(
        {"backends": [dict(BACKEND)], "models": [{"id": "m", "fallback": ["x", 5]}]}
    )
    assert told == ['models[0].fallback[1]: 5 is not text; put it in quotes: "5"']
    assert config.models[0].fallback == ("x", "")
    config, told = structured(
        {"backends": [dict(BACKEND)], "metrics": {"latency_buckets": [5, "x"]}}
    )
    assert told == ['metrics.latency_buckets[1]: "x" is not a whole number; want one of at least 0']
    assert config.metrics.latency_buckets == (5, 0)


def test_broken_values_are_not_told_again() -> None:
    """They are replaced like wrong ones."""
    config, told = structured({"backends": [{"name": BROKEN, "url": "demo:"}], "auth": BROKEN})
    assert not told
    assert config == Config(backends=(Backend(name="", url="demo:"),))
    assert structured({"backends": BROKEN})[0] == Config(backends=())


def sections(cls: type[Any] = Config) -> Iterator[type[Any]]:
    """List the classes of the model."""
    yield cls
    for kind in get_type_hints(cls).values():
        for one in (kind, *get_args(kind)):
            if attrs.has(one):
                yield from sections(one)


@pytest.mark.parametrize("cls", sorted(set(sections()), key=str))
def test_every_section_has_a_stand_in(cls: type[Any]) -> None:
    """Whatever is wrong, something can stand there; else a new required key would break loading."""
    assert isinstance(stand_in(cls), dict)
    for one in attrs.fields(cls):
        if one.default is attrs.NOTHING:
            stand_in(get_type_hints(cls)[one.name])


def test_a_type_without_a_stand_in_is_a_fault_of_the_model() -> None:
    """One that no key may have without a default."""
    with pytest.raises(TypeError, match="give the key a default"):
        stand_in(complex)


def test_where_secrets_may_be() -> None:
    """In backends and keys and in all that holds them."""
    assert all(map(holds_secrets, (Backend, StaticKey, Provider, Auth, Config)))
    assert all(map(holds_secrets, (Cache, Database, Storage, dict[str, Cache])))
    assert not any(map(holds_secrets, (HealthCheck, Retry, BackendTls, Limits)))


def test_a_required_key_has_a_stand_in_under_its_name_in_yaml() -> None:
    """Else the stand-in itself would be an unknown key."""

    @attrs.frozen(kw_only=True)
    class Odd:
        """A section with a required key of another name."""

        class_: str = setting("required", key="class")

    assert stand_in(Odd) == {"class": ""}
    assert make_converter().structure({"class": "x"}, Odd) == Odd(class_="x")


def test_a_mapping_of_secrets_is_not_shown() -> None:
    """Nor what stands where the mapping should be."""

    @attrs.frozen(kw_only=True)
    class Odd:
        """A section with sections by name that hold secrets."""

        caches: dict[str, Secret] = setting("by name", factory=dict)

    with pytest.raises(cattrs.ClassValidationError) as caught:
        make_converter().structure({"caches": "s3cret"}, Odd)
    (wrong,) = caught.value.exceptions
    assert isinstance(wrong, WrongValueError)
    assert wrong.hide


def test_a_type_that_nobody_reads_is_a_fault_of_the_model() -> None:
    """It comes out when the first configuration is loaded."""

    @attrs.frozen(kw_only=True)
    class Odd:
        """A section with a key of an unknown type."""

        odd: complex = 0j

    with pytest.raises(TypeError, match="no reader for"):
        make_converter().structure({}, Odd)
