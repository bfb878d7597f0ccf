"""Tests of `llmproxy.config.shown`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
import pytest

from llmproxy.config.load import load_config
from llmproxy.config.model import Config
from llmproxy.config.setting import Cidr, Secret, key_name
from llmproxy.config.shown import shown
from llmproxy.config.structure import stand_in
from tests.config.conftest import Load
from tests.config.test_model import REFERENCE

CANARY = "s3cret-canary"


class Planter:
    """Makes a configuration with one of everything, and a canary in each secret.

    Attributes:
        planted: Where they are.
    """

    def __init__(self) -> None:
        self.planted: list[str] = []

    def section(self, cls: type[Any], path: str) -> Any:
        """Make an instance of a class of the model."""
        hints = get_type_hints(cls)
        values = {
            one.name: self.value(hints[one.name], one, f"{path}.{key_name(one)}")
            for one in attrs.fields(cls)
        }
        return cls(**values)

    def value(self, kind: Any, field: attrs.Attribute[Any], path: str) -> Any:
        """Make a value of a type, with a canary if it is secret."""
        origin, args = get_origin(kind), get_args(kind)
        if attrs.has(kind):
            return self.section(kind, path)
        if origin is tuple:
            return (self.value(args[0], field, path),)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"name": self.value(args[1], field, path)}
        if field.metadata["secret"] or kind is Secret:
            self.planted.append(path)
            return CANARY
        if origin is Literal:
            return args[0]
        if kind is int:
            return 1
        return stand_in(kind) if kind in (str, Cidr) else field.default


def test_no_secret_is_shown_wherever_it_stands() -> None:
    """Each field that says that it is secret holds one here, and none comes out."""
    planter = Planter()
    config = planter.section(Config, "")
    assert len(planter.planted) >= 9
    text = json.dumps(shown(config))
    assert CANARY not in text
    assert text.count('"(hidden)"') == len(planter.planted)


def test_every_key_is_shown_under_its_name_in_yaml() -> None:
    """What is shown of the reference file has the keys of the reference file."""
    config = load_config(str(REFERENCE), {})
    view = shown(config)
    assert list(view) == [key_name(one) for one in attrs.fields(Config)]
    assert set(view["rate_limit"]) >= {"global", "per_key", "per_model"}
    assert view["rate_limit"]["per_model"]["qwen-72b"]["max_concurrent"] == 32
    assert view["auth"]["pipeline"][4]["webhook"]["headers"] == {"X-Team": "(hidden)"}
    assert view["server"]["listen"] == [":8000"]
    assert json.loads(json.dumps(view)) == view


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("server: {idle_timeout: 2m}", ("server", "idle_timeout"), 120.0),
        ("server: {max_body_size: 1KiB}", ("server", "max_body_size"), 1024),
        ("server: {tls: {enabled: false}}", ("server", "tls", "enabled"), False),
        ("models: [{id: m}]", ("models", 0, "context"), None),
        ("models: [{id: m, first_byte_timeout: 5}]", ("models", 0, "first_byte_timeout"), 5.0),
        ("server: {}", ("admin", "token"), ""),
        ("admin: {token: 'k7Qz9!mB2w#L5vX8'}", ("admin", "token"), "(hidden)"),
        ("admin: {token_file: secret}", ("admin", "token"), "(hidden)"),
        ("admin: {token_file: secret}", ("admin", "token_file"), "secret"),
        (
            "auth: {storage: file}\napi_keys: [{key: sk-123456, user_id: a@example.org}]",
            ("api_keys", 0, "user_id"),
            "a@example.org",
        ),
        (
            "auth: {storage: file}\napi_keys: [{key: sk-123456, metadata: {team: x}}]",
            ("api_keys", 0, "metadata"),
            {"team": "x"},
        ),
        (
            "auth: {storage: file}\napi_keys: [{key: sk-123456, expires_at: 2030-12-31}]",
            ("api_keys", 0, "expires_at"),
            "2030-12-31T00:00:00Z",
        ),
        (
            "auth: {pipeline: [{name: w, type: webhook, webhook: {url: 'https://h/p?t=s3cret'}}]}",
            ("auth", "pipeline", 0, "webhook", "url"),
            "https://h/p?(hidden)",
        ),
    ],
)
def test_values(load: Load, text: str, place: tuple[str | int, ...], expected: object) -> None:
    """Seconds, bytes, times in UTC, and whether a secret is set."""
    start = "backends: [{name: a, url: 'demo:'}]\n"
    auth = "" if "auth:" in text else "auth: {enabled: false}\n"
    view: Any = shown(load(f"{start}{auth}{text}\n", files={"secret": "k7Qz9!mB2w#L5vX8"}))
    for step in place:
        view = view[step]
    assert view == expected
    assert type(view) is type(expected)


def test_a_password_in_a_url_is_not_shown() -> None:
    """The loader refuses it; whoever makes a configuration otherwise is safe, too."""
    config = Planter().section(Config, "")
    backend = attrs.evolve(config.backends[0], url="http://user:s3cret@h/x")
    view = shown(attrs.evolve(config, backends=(backend,)))
    assert view["backends"][0]["url"] == "http://(hidden)@h/x"
