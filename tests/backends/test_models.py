"""Tests of `llmproxy.backends.models`."""

from __future__ import annotations

import pytest

from llmproxy.backends.models import ConfiguredModels, is_literal, matches_any
from llmproxy.config.model import Model
from llmproxy.config.setting import Duration
from llmproxy.values import ModelCard, ModelRoute


@pytest.mark.parametrize(
    ("name", "globs", "matches"),
    [
        ("qwen-72b", (), False),
        ("qwen-72b", ("qwen-72b",), True),
        ("qwen-72b", ("llama", "qwen*"), True),
        ("qwen-72b", ("qwen-7?b",), True),
        ("qwen-72b", ("qwen-[78]*",), True),
        ("qwen-72b", ("QWEN*",), False),
        ("qwen-72b", ("qwen",), False),
        ("org/qwen", ("*",), True),
        ("qwen[1]", ("qwen[1]",), True),
    ],
)
def test_matches_any(name: str, globs: tuple[str, ...], matches: bool) -> None:
    """Globs match the whole name, case counts, and a name matches itself."""
    assert matches_any(name, globs) is matches


@pytest.mark.parametrize(
    ("glob", "literal"), [("a", True), ("a*", False), ("a?", False), ("[a]", False), ("a]", True)]
)
def test_is_literal(glob: str, literal: bool) -> None:
    """A glob without signs is a name."""
    assert is_literal(glob) is literal


def test_routes() -> None:
    """Ids and aliases lead to the model's id, its upstream name and its backends."""
    models = ConfiguredModels(
        [
            Model(
                id="big", upstream_model="Org/Big", aliases=("default", "gpt-4"), backends=("b",)
            ),
            Model(id="small", first_byte_timeout=Duration(9.0)),
        ],
        created=1,
    )
    big = ModelRoute("big", "Org/Big", frozenset(("b",)))
    assert models.resolve("big") == big
    assert models.resolve("default") == big
    assert models.resolve("gpt-4") == big
    assert models.resolve("small") == ModelRoute("small", "small", None, 9.0)
    assert models.resolve("Org/Big") is None
    assert models.resolve("sma*") is None


def test_ids_stand_before_aliases() -> None:
    """An alias cannot take another model's name."""
    models = ConfiguredModels(
        [Model(id="a", aliases=("b", "c")), Model(id="b", aliases=("c",))], created=1
    )
    routes = {name: models.resolve(name) for name in "abc"}
    assert {name: route and route.model_id for name, route in routes.items()} == {
        "a": "a",
        "b": "b",
        "c": "a",
    }


def test_cards() -> None:
    """Cards show what is configured, in the file's order."""
    models = ConfiguredModels(
        [
            Model(id="z", name="Zed", description="the last", context=100, output=10),
            Model(id="a", aliases=("b",), images=True, reasoning=True),
        ],
        created=7,
    )
    assert [card for card, _ in models.cards()] == [
        ModelCard(id="z", created=7, name="Zed", description="the last", context=100, output=10),
        ModelCard(id="a", created=7, name="a", images=True, reasoning=True),
    ]
    assert [route.model_id for _, route in models.cards()] == ["z", "a"]


def test_empty() -> None:
    """Without configured models it counts as none."""
    assert not ConfiguredModels([], created=1)
    assert len(ConfiguredModels([Model(id="a")], created=1)) == 1
    assert repr(ConfiguredModels([Model(id="a")], created=1)) == "<ConfiguredModels ['a']>"
