"""Tests of `llmproxy.config.checks_limits`."""

from __future__ import annotations

import pytest

from tests.config.conftest import Load, Problems

START = """\
backends: [{name: a, url: 'demo:'}]
auth: {enabled: false}
storage: {caches: [{name: primary}, {name: other}]}
"""
MODELS = "models: [{id: qwen, aliases: [gpt-4o]}, {id: llama}]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "storage: redis",
            'redis: "" is not a name of storage.caches; want one of: primary, other',
        ),
        (
            "storage: redis, redis: primry",
            'redis: "primry" is not a name of storage.caches; did you mean "primary"?',
        ),
        (
            "redis: primary",
            'redis: "primary" is given, but nothing is counted there; want storage: redis with it',
        ),
        (
            "per_model: {qwne: {max_concurrent: 1}}",
            'per_model.qwne: "qwne" is not the id of a model; did you mean "qwen"?',
        ),
        (
            "per_model: {qwen: {}, mistral: {}}",
            'per_model.mistral: "mistral" is not the id of a model; want one of: qwen, llama',
        ),
        (
            "per_model: {gpt-4o: {}}",
            'per_model.gpt-4o: is an alias; want the model\'s id, "qwen"',
        ),
        ("per_model: {' ': {}}", 'per_model[" "]: " " is empty; want a name'),
    ],
)
def test_limits(problems: Problems, text: str, expected: str) -> None:
    """Redis is one that is there, and models are those that clients see."""
    (told,) = problems(f"{START}{MODELS}rate_limit: {{{text}}}\n")
    assert told.startswith(f"x.yaml:5: rate_limit.{expected}")


def test_limits_that_are_good(load: Load) -> None:
    """Without ``models`` any name may be one that a backend lists."""
    text = "rate_limit: {storage: redis, redis: other, per_model: {Qwen/2.5: {burst_size: 3}}}\n"
    limits = load(START + text).rate_limit
    assert limits.per_model["Qwen/2.5"].burst_size == 3
    assert limits.redis == "other"
    assert load(START + MODELS + "rate_limit: {per_model: {qwen: }}\n").rate_limit.per_model


@pytest.mark.parametrize(
    "models",
    ["models: [{id: 5}]", "models: 5", "models: [{id: qwen, aliases: 5}]", "modles: [{id: llama}]"],
)
def test_no_model_is_missed_where_one_is_broken(problems: Problems, models: str) -> None:
    """It may be the one."""
    told = problems(f"{START}{models}\nrate_limit: {{per_model: {{llama: {{}}}}}}\n")
    assert len(told) == 1
    assert "per_model" not in told[0]
