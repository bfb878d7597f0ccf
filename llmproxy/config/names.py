"""Names that parts of a configuration have, and by which other parts call them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from llmproxy.config.findings import Findings, KeyPath, path_text, quoted
from llmproxy.config.scalars import closest

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_names(findings: Findings, names: Iterable[tuple[KeyPath, str]]) -> None:
    """Check that names are there, can be printed, and are unique."""
    first: dict[str, KeyPath] = {}
    for path, name in names:
        if not name.strip():
            findings.check(path, f"{quoted(name)} is empty; want a name")
        elif _CONTROL.search(name):
            findings.check(path, f"{quoted(name)} has control characters; want it without")
        elif name in first:
            findings.check(
                path, f"{quoted(name)} is taken by {path_text(first[name])}; want a unique one"
            )
        else:
            first[name] = path


def check_reference(
    findings: Findings, path: KeyPath, name: str, known: Sequence[str], at: KeyPath, what: str
) -> None:
    """Check that a name is one of those that another part of the configuration gives.

    Args:
        findings: Takes the problem.
        path: Where the name stands.
        name: The name.
        known: Those that there are; with an empty one, about which there is a problem already,
            nothing can be said.
        at: Where those are given.
        what: What bears such a name: "the name of a backend".
    """
    if name in known or "" in known:
        return
    near = closest(name, known)
    if near:
        wanted = f'did you mean "{near}"?'
    elif known:
        wanted = f"want one of: {', '.join(known)}"
    else:
        wanted = f"want one of {path_text(at)}, where there is none"
    findings.check(path, f"{quoted(name)} is not {what}; {wanted}", needs=() if known else (at,))


def check_other_types(findings: Findings, holder: Any, path: KeyPath, types: Sequence[str]) -> None:
    """Check that settings are given for the type that something has, and for no other.

    Args:
        findings: Takes the problems.
        holder: Has a ``type``, and a section of settings for each type.
        path: Where it stands.
        types: Those with settings, each under its own name.
    """
    for name in types:
        settings = getattr(holder, name)
        if name != holder.type and settings != type(settings)():
            findings.check(
                (*path, name),
                f"is given, but the type is {holder.type}; want it removed, or type: {name}",
                needs=((*path, "type"),),
            )
