"""Tests of `llmproxy.config.model`: the shipped files say what the model says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
import pytest

from llmproxy.config.findings import Findings
from llmproxy.config.load import load_config
from llmproxy.config.model import LATER_KEYS, LATER_SECTIONS, Backend, Config
from llmproxy.config.setting import key_name
from llmproxy.config.yaml_lines import read_tree

ETC = Path(__file__).parents[2] / "etc"
REFERENCE = ETC / "llmproxy.reference.yaml"

EXAMPLES = {
    "server.trusted_proxies",
    "server.tls.certificates",
    "server.tls.certificates[].server_names",
    "server.cors.expose_headers",
    "backends",
    "backends[].name",
    "backends[].url",
    "backends[].models",
    "backends[].headers",
    "models",
    "models[].id",
    "models[].name",
    "models[].description",
    "models[].upstream_model",
    "models[].aliases",
    "models[].backends",
    "models[].context",
    "models[].output",
    "auth.pipeline",
    "auth.pipeline[].name",
    "auth.pipeline[].type",
    "auth.pipeline[].static.keys",
    "auth.pipeline[].static.keys[].key",
    "auth.pipeline[].static.keys[].name",
    "auth.pipeline[].static.keys[].user_id",
    "auth.pipeline[].static.keys[].starts_at",
    "auth.pipeline[].static.keys[].expires_at",
    "auth.pipeline[].static.keys[].allowed_models",
    "auth.pipeline[].static.keys[].allowed_ips",
    "auth.pipeline[].static.keys[].denied_ips",
    "auth.pipeline[].static.keys[].total_quota",
    "auth.pipeline[].static.keys[].quota_reset_period",
    "auth.pipeline[].static.keys[].metadata",
    "auth.pipeline[].redis.storage",
    "auth.pipeline[].database.storage",
    "auth.pipeline[].database.fields",
    "auth.pipeline[].webhook.url",
    "auth.pipeline[].webhook.headers",
    "rate_limit.per_model",
    "rate_limit.per_model.*.max_concurrent",
    "usage.reporters",
    "usage.reporters[].name",
    "usage.reporters[].type",
    "usage.reporters[].webhook.url",
    "usage.reporters[].database.storage",
    "opencode.url",
    "storage.databases",
    "storage.databases[].name",
    "storage.databases[].path",
    "storage.caches",
    "storage.caches[].name",
}
"""What the reference shows an example of; everywhere else it shows the default."""


@attrs.frozen
class Key:
    """One key of the model, as the reference file has it.

    Attributes:
        name: Its path, without the positions in lists and the names in mappings.
        path: Its path in the file.
        field: Its declaration.
        kind: Its type.
        holder: The part of the loaded reference file that it belongs to.
    """

    name: str
    path: tuple[str | int, ...]
    field: Any
    kind: Any
    holder: Any


def keys(holder: Any, name: str = "", path: tuple[str | int, ...] = ()) -> Iterator[Key]:
    """Walk the model along the loaded reference file."""
    hints = get_type_hints(type(holder))
    for field in attrs.fields(type(holder)):
        at, here = (*path, key_name(field)), f"{name}{key_name(field)}"
        yield Key(here, at, field, hints[field.name], holder)
        value = getattr(holder, field.name)
        if attrs.has(type(value)):
            yield from keys(value, f"{here}.", at)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if attrs.has(type(item)):
                    yield from keys(item, f"{here}[].", (*at, index))
        elif isinstance(value, Mapping):
            for entry, item in value.items():
                if attrs.has(type(item)):
                    yield from keys(item, f"{here}.*.", (*at, entry))


def reference_keys() -> list[Key]:
    """List all keys that the reference file has to show, as often as it has a place for them."""
    return list(keys(load_config(str(REFERENCE), {})))


def shown_keys() -> list[tuple[Key, str]]:
    """List those of them that it does show, each with its line."""
    at, lines = lines_of_reference()
    return [(key, lines[at[key.path] - 1]) for key in reference_keys() if key.path in at]


def lines_of_reference() -> tuple[dict[tuple[str | int, ...], int], list[str]]:
    """Give the line of each key of the reference file, and its lines."""
    findings = Findings("reference")
    text = REFERENCE.read_text("utf-8")
    read_tree(text, {}, findings)
    return findings.lines, text.splitlines()


def model_classes(cls: type[Any] = Config) -> Iterator[type[Any]]:
    """List the classes of the model."""
    yield cls
    for kind in get_type_hints(cls).values():
        for one in (kind, *get_args(kind)):
            if attrs.has(one):
                yield from model_classes(one)


def test_the_reference_shows_every_class() -> None:
    """Each list of sections has an item, here or where the same class is shown."""
    assert {type(key.holder) for key in reference_keys()} == set(model_classes())


def test_the_reference_shows_every_key_with_its_line_of_text() -> None:
    """A key that is added to the model is missing here until it is written down."""
    seen = {key.name for key, _ in shown_keys()}
    # One item of a list may show what another, of another type, cannot have.
    assert not {key.name for key in reference_keys()} - seen
    wrong = [
        key.name for key, line in shown_keys() if not line.endswith(f" {key.field.metadata['doc']}")
    ]
    assert not wrong


def test_the_reference_names_the_words_that_may_stand_somewhere() -> None:
    """Those of this version, where there is more than one."""
    for key, line in shown_keys():
        words = get_args(key.kind)
        if get_origin(key.kind) is Literal and len(words) > 1:
            shown = " | ".join(word or '""' for word in words)
            assert f"# {shown}; " in line, key.name


def test_the_reference_shows_the_defaults() -> None:
    """Everywhere but where it says that it shows an example."""
    examples = set()
    for key, _ in shown_keys():
        value = getattr(key.holder, key.field.name)
        default = key.field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        if value != default and not attrs.has(type(value)):
            examples.add(key.name)
    assert examples == EXAMPLES


def test_the_reference_names_what_is_not_available_yet() -> None:
    """Sections and keys that are refused stand in its last comment."""
    comment = REFERENCE.read_text("utf-8").partition("# Not available yet")[2]
    assert all(line.startswith("#") for line in comment.splitlines()[1:])
    names = [*LATER_SECTIONS, *(name for names in LATER_KEYS.values() for name in names)]
    missing = [name for name in names if not re.search(rf"^# (\S+\.)?{name}:", comment, re.M)]
    assert not missing


def test_every_key_says_what_it_is_for() -> None:
    """One line, for the operator."""
    for cls in set(model_classes()):
        for field in attrs.fields(cls):
            assert field.metadata["doc"], f"{cls.__name__}.{field.name}"
            assert "\n" not in field.metadata["doc"]


def test_later_keys_are_not_in_the_model_already() -> None:
    """Whoever brings a key takes it off the lists."""
    for cls, names in {Config: LATER_SECTIONS, **LATER_KEYS}.items():
        assert not set(names) & {key_name(one) for one in attrs.fields(cls)}


@pytest.mark.parametrize(
    ("environ", "key"), [({}, "sk-demo"), ({"LLMPROXY_API_KEY": "sk-mine"}, "sk-mine")]
)
def test_the_shipped_file_runs_as_it_is(environ: dict[str, str], key: str) -> None:
    """On loopback, with the stand-in and one key."""
    config = load_config(str(ETC / "llmproxy.yaml"), environ)
    assert config.server.listen == ("127.0.0.1:8000",)
    assert config.backends == (Backend(name="demo", url="demo:"),)
    (static,) = config.auth.pipeline[0].static.keys
    assert (static.key, static.name) == (key, "demo")


def test_the_shipped_file_shows_a_real_server(tmp_path: Path) -> None:
    """Without their "#", its commented lines are a backend."""
    text = (ETC / "llmproxy.yaml").read_text("utf-8")
    lines = re.sub(r"^  # (?=- name|  \w+: )", "  ", text, flags=re.M)
    file = tmp_path / "x.yaml"
    file.write_text(lines)
    config = load_config(str(file), {})
    assert [backend.name for backend in config.backends] == ["demo", "vllm-1"]
    assert config.backends[1].url == "http://127.0.0.1:8001"


def test_secrets_are_not_in_the_repr() -> None:
    """Neither keys nor header values."""
    backend = Backend(name="a", url="demo:", api_key="s3cret", headers={"X-A": "s3cret"})  # type: ignore[arg-type]
    assert "s3cret" not in repr(backend)
