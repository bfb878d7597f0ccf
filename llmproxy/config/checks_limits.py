"""What no single value of ``rate_limit`` shows: that it fits to storage and models."""

from __future__ import annotations

from llmproxy.config.findings import Findings, KeyPath, quoted
from llmproxy.config.model import Config
from llmproxy.config.names import check_names, check_reference


def check_limits(config: Config, findings: Findings) -> None:
    """Check where limits are counted, and for which models there are some.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    at: KeyPath = ("rate_limit", "redis")
    storage: KeyPath = ("rate_limit", "storage")
    limits = config.rate_limit
    caches = [one.name for one in config.storage.caches]
    if limits.storage == "redis":
        check_reference(
            findings, at, limits.redis, caches, ("storage", "caches"), "a name of storage.caches"
        )
    elif limits.redis:
        findings.check(
            at,
            f"{quoted(limits.redis)} is given, but nothing is counted there; "
            "want storage: redis with it",
            needs=(storage,),
        )
    _check_models(config, findings)


def _check_models(config: Config, findings: Findings) -> None:
    at: KeyPath = ("rate_limit", "per_model")
    names = list(config.rate_limit.per_model)
    check_names(findings, [((*at, name), name) for name in names])
    ids = [model.id for model in config.models]
    by_alias = {alias: model.id for model in config.models for alias in model.aliases}
    if not ids or findings.suspect(("models",)):
        return
    for name in filter(str.strip, names):
        if name not in ids and name in by_alias:
            findings.check(
                (*at, name), f"is an alias; want the model's id, {quoted(by_alias[name])}"
            )
        else:
            check_reference(findings, (*at, name), name, ids, ("models",), "the id of a model")
