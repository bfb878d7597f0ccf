"""Where the problems of one file are gathered, so that all of them are told at once.

It turns key paths into text and into lines, and remembers which parts of the file are already known
to be wrong, so that no check complains about what follows from another problem. It knows nothing of
YAML, of the model or of what makes a value wrong.
"""

from __future__ import annotations

import json
import re

import attrs

from llmproxy.errors import ConfigError, Problem

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys of mappings and positions in lists, from the root."""

_PLAIN_KEY = re.compile(r"[\w-]+")
_LONGEST_SHOWN = 60


def path_text(path: KeyPath) -> str:
    """Write a key path as people read it: ``backends[0].url``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{quoted(step)}]"
    return text


def quoted(text: str) -> str:
    """Put a text in quotes, control characters escaped, and shorten it when it is long."""
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 3] + "..."
    # Lone surrogates cannot be printed; everything else that is not ASCII can.
    printable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return json.dumps(printable, ensure_ascii=False)


def hidden(value: object) -> str:
    """Speak of a value that may be a secret."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"a value of {len(value)} characters" if value else "an empty value"
    return "a number (hidden)"


@attrs.define
class Findings:
    """The problems found so far in one file.

    Attributes:
        file: The file's name, for every problem.
        lines: The line of each key path that stands in the file, 1-based.
        sources: What stands in the file for each value that is not text: ``0x10`` for 16.
    """

    file: str
    lines: dict[KeyPath, int] = attrs.field(factory=dict)
    sources: dict[KeyPath, str] = attrs.field(factory=dict)
    _found: list[Problem] = attrs.field(factory=list, init=False)
    _broken: set[KeyPath] = attrs.field(factory=set, init=False)

    def __bool__(self) -> bool:
        return bool(self._found)

    def line(self, path: KeyPath) -> int:
        """Give the line of a path, or of the nearest part above it that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def add(self, path: KeyPath, message: str, *, line: int | None = None) -> None:
        """Record a problem and mark what stands at the path as broken.

        Args:
            path: The key path; empty for the file itself.
            message: The value seen and the value wanted; no secret.
            line: When it is not the path's own.
        """
        at = self.line(path) if line is None else line
        problem = Problem(path=path_text(path), message=message, line=at, file=self.file)
        if problem not in self._found:
            self._found.append(problem)
        self.mark_broken(path)

    def mark_broken(self, path: KeyPath) -> None:
        """Note that the value at a path is a stand-in, about which nothing can be said."""
        if path:
            self._broken.add(path)

    def suspect(self, path: KeyPath) -> bool:
        """Say whether the value at a path, a part of it or what it is a part of is broken."""
        return any(
            broken[: len(path)] == path or path[: len(broken)] == broken for broken in self._broken
        )

    def check(self, path: KeyPath, message: str, *, needs: tuple[KeyPath, ...] = ()) -> None:
        """Record a problem that a check found, unless it may just follow from another.

        Args:
            path: Where the problem is told.
            message: The value seen and the value wanted; no secret.
            needs: What else the check looked at.
        """
        if not any(self.suspect(one) for one in (path, *needs)):
            at = self.line(path)
            self._found.append(
                Problem(path=path_text(path), message=message, line=at, file=self.file)
            )

    def error(self) -> ConfigError:
        """Make the error that carries them all, in the order of the file."""
        return ConfigError(tuple(sorted(self._found, key=lambda problem: problem.line)))
