"""The keys that stand in the configuration: which there are, and what is wrong with them.

No message shows a key. It knows nothing of how requests are authenticated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from llmproxy.config.addresses import parse_listen
from llmproxy.config.findings import Findings, KeyPath, path_text
from llmproxy.config.model import Config
from llmproxy.config.model_auth import StaticKey

SHORTEST_KEY: Final = 6
"""Characters of a key, at least."""

LONGEST_KEY: Final = 4096
"""Characters of a key, at most: longer credentials of clients are not looked at."""

SUBJECT_PREFIX: Final = "tls:"
"""What begins so is the subject of a client's certificate: a key that no header can carry."""

SAMPLE_KEY: Final = "sk-demo"
"""That of ``etc/llmproxy.yaml``: everybody knows it."""

_KEY_TEXT = re.compile(rf"[!-~]*|{SUBJECT_PREFIX}[ -~]*", re.ASCII)


def static_keys(config: Config) -> Iterator[tuple[KeyPath, StaticKey]]:
    """List the keys in force, each with its key path: the pipeline's, then ``api_keys``."""
    for position, provider in enumerate(config.auth.pipeline):
        if provider.type == "static":
            for index, key in enumerate(provider.static.keys):
                yield ("auth", "pipeline", position, "static", "keys", index), key
    if config.auth.storage == "file":
        for index, key in enumerate(config.api_keys):
            yield ("api_keys", index), key


def knows_keys(config: Config) -> bool:
    """Say whether there is a key, or a source that may know some."""
    return any(static_keys(config)) or any(one.type != "static" for one in config.auth.pipeline)


def is_open_to_all(config: Config) -> bool:
    """Say whether the sample's key is taken from other machines."""
    is_taken = config.auth.enabled and any(key.key == SAMPLE_KEY for _, key in static_keys(config))
    return is_taken and not all(map(_is_of_this_machine, config.server.listen))


def _is_of_this_machine(listen: str) -> bool:
    if listen.startswith("unix:"):
        return True
    found = parse_listen(listen)
    if found is None:
        return "interface=127." in listen
    return bool(found[0]) and ip_address(found[0]).is_loopback


def check_keys(config: Config, findings: Findings) -> None:
    """Check that there is a key where one is needed, and that each can be sent and told apart."""
    storage: KeyPath = ("auth", "storage")
    if config.api_keys and config.auth.storage != "file":
        findings.check(
            ("api_keys",),
            "are given, but nobody reads them; want auth.storage: file with them",
            needs=(storage,),
        )
    if config.auth.storage == "file" and not config.api_keys:
        findings.check(
            storage, "is file, but there are no api_keys; want some", needs=(("api_keys",),)
        )
    elif config.auth.enabled and not knows_keys(config):
        findings.check(
            ("auth", "enabled"),
            "is true, but there is no key; want one in auth.pipeline or api_keys, another source "
            "of keys in auth.pipeline, or auth.enabled: false to let everybody in",
            needs=(("auth", "pipeline"), storage, ("api_keys",)),
        )
    first_places: dict[str, KeyPath] = {}
    for path, key in _all_keys(config):
        _check_key(path, key, first_places, findings)
        _check_life(path, key, findings)


def _all_keys(config: Config) -> Iterator[tuple[KeyPath, StaticKey]]:
    yield from static_keys(config)
    if config.auth.storage != "file":
        yield from ((("api_keys", index), key) for index, key in enumerate(config.api_keys))


def _check_life(path: KeyPath, key: StaticKey, findings: Findings) -> None:
    if key.starts_at is None or key.expires_at is None or key.starts_at < key.expires_at:
        return
    findings.check(
        (*path, "expires_at"),
        "is not after starts_at; want a later time",
        needs=((*path, "starts_at"),),
    )


def _check_key(
    path: KeyPath, key: StaticKey, first_places: dict[str, KeyPath], findings: Findings
) -> None:
    from_file = bool(key.key_file)
    at = (*path, "key_file" if from_file else "key")
    if findings.suspect(at):
        return
    where = "holds" if from_file else "is"
    if not key.key:
        if not from_file:
            findings.check(path, "has no key; want key or key_file", needs=((*path, "key_file"),))
    elif not _KEY_TEXT.fullmatch(key.key):
        findings.check(
            at,
            f"{where} a key (hidden) with characters that clients cannot send; "
            "want visible ASCII without spaces",
        )
    elif not SHORTEST_KEY <= len(key.key) <= LONGEST_KEY:
        findings.check(
            at,
            f"{where} a key of {len(key.key)} characters; want {SHORTEST_KEY} to {LONGEST_KEY}",
        )
    elif key.key in first_places:
        findings.check(at, f"{where} the same key as {path_text(first_places[key.key])}")
    else:
        first_places[key.key] = path
