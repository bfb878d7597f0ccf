"""From YAML text to plain values, with the line of every key.

PyYAML composes the graph of nodes; the values are built from it here, so that each key path has its
line, keys that are given twice are seen, and ``${NAME}`` is read. Scalars follow YAML 1.1 with its
traps removed: ``010`` and ``1:30`` are text, not octal or base 60. It knows nothing of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
import yaml

from llmproxy.config.environment import interpolate
from llmproxy.config.findings import Findings, KeyPath

MAX_NODES: Final = 100_000
"""More values than this, aliases written out, are no configuration but a "billion laughs"."""

BROKEN: Final = object()
"""Stands where a value would be about which a problem was already recorded."""

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(
    f"{_TAG}{name}" for name in ("str", "null", "bool", "int", "float", "timestamp", "value")
)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)|[-+]?0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, object] = {
    **dict.fromkeys(("", "~", "null"), None),
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    ".inf": float("inf"),
    "+.inf": float("inf"),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}
_LONGEST_NUMBER = 300
# PyYAML quotes the file in these messages, and a secret may stand there.
_TELLING = re.compile(r"(alias|anchor|tag handle|tag) (?:'[^']*'|\"[^\"]*\")")


def plain_scalar(text: str) -> Any:
    """Read a scalar without quotes: null, a truth value, a number, or else text."""
    word = text.lower()
    if word in _WORDS and text in (word, word.upper(), word.capitalize()):
        return _WORDS[word]
    if len(text) <= _LONGEST_NUMBER:
        if _INT.fullmatch(text):
            return int(text, 16 if "x" in text else 10)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


def read_tree(text: str, environ: Mapping[str, str], findings: Findings) -> Any:
    """Read a YAML document.

    Args:
        text: The document.
        environ: What ``${NAME}`` refers to.
        findings: Takes the problems, and the line and source of every key path.

    Returns:
        Dictionaries, lists and scalars; `BROKEN` wherever a problem was recorded, at the root too.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            findings.add((), "is empty; want at least backends:")
            return BROKEN
        return _Builder(environ, findings).document(root)
    except yaml.MarkedYAMLError as error:
        _add_syntax_error(error, text, findings)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        findings.add((), f"has a character that YAML forbids (U+{code:04X})", line=line)
    except RecursionError:
        findings.add((), "is nested too deeply", line=0)
    except _TooManyNodesError:
        told = f"has more than {MAX_NODES} values once its aliases are written out"
        findings.add((), told, line=0)
    except (ValueError, OverflowError):
        # PyYAML lets those of int() and chr() pass: escapes and directives beyond all bounds.
        told = "is not YAML: a number in an escape or a directive is out of range"
        findings.add((), told, line=0)
    return BROKEN


def _add_syntax_error(error: yaml.MarkedYAMLError, text: str, findings: Findings) -> None:
    """Record what PyYAML says, without the excerpts of the file that it shows."""
    mark = error.problem_mark or error.context_mark
    said = ", ".join(part for part in (error.context, error.problem) if part)
    said = _TELLING.sub(r"\1", said)
    line = mark.line + 1 if mark else 0
    where = f" (column {mark.column + 1})" if mark else ""
    lines = text.splitlines()
    hint = ""
    if 0 < line <= len(lines) and "${" in lines[line - 1]:
        hint = '; inside {...} and [...], ${NAME} must stand in quotes: "${NAME}"'
    findings.add((), f"is not YAML: {said}{where}{hint}", line=line)


class _TooManyNodesError(Exception):
    """The bound on values is passed."""


@attrs.define
class _Builder:
    """Builds the values of one document.

    Attributes:
        environ: What ``${NAME}`` refers to.
        findings: Takes problems, lines and sources.
        count: Values built so far.
        open_nodes: Ids of the collections that are being built now: an alias to one is recursive.
    """

    environ: Mapping[str, str]
    findings: Findings
    count: int = 0
    open_nodes: set[int] = attrs.field(factory=set)

    def document(self, root: yaml.Node) -> Any:
        self.findings.lines[()] = root.start_mark.line + 1
        return self._build(root, ())

    def _build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count_one()
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self.open_nodes:
            self.findings.add(path, "is an alias of what it stands in")
            return BROKEN
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return self._sequence(node, path)
        finally:
            self.open_nodes.discard(id(node))
        return self._unknown_tag(path)

    def _count_one(self) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise _TooManyNodesError

    def _unknown_tag(self, path: KeyPath) -> Any:
        self.findings.add(
            path, 'has a YAML tag ("!..."); put a value that begins with "!" in quotes'
        )
        return BROKEN

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        source: str = node.value
        if node.tag not in _SCALAR_TAGS and node.tag != f"{_TAG}merge":
            return self._unknown_tag(path)
        value = source if node.tag == f"{_TAG}str" else plain_scalar(source)
        if not isinstance(value, str):
            self.findings.sources[path] = source
            return value
        try:
            return interpolate(value, self.environ)
        except ValueError as error:
            self.findings.add(path, str(error))
            return BROKEN

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        items = []
        for position, item in enumerate(node.value):
            at = (*path, position)
            self.findings.lines[at] = item.start_mark.line + 1
            items.append(self._build(item, at))
        return items

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merges: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merges.append(value_node)
            elif (name := self._key(key_node, path)) is not None:
                self._entry(name, key_node, value_node, path, values)
        for merge in merges:
            for key_node, value_node in self._merged(merge, path):
                # What stands in the mapping itself is stronger, then what was merged first.
                name = self._key(key_node, path)
                if name is not None and name not in values:
                    self._entry(name, key_node, value_node, path, values)
        return values

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        """Read a key; None, and a problem, when it is no text."""
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            self.findings.add(path, "has a key that is a list or a mapping; want text", line=line)
            return None
        text: str = node.value
        if node.tag not in _SCALAR_TAGS:
            self.findings.add(path, "has a key with a YAML tag; want plain text", line=line)
            return None
        if node.tag != f"{_TAG}str" and not isinstance(plain_scalar(text), str):
            self.findings.add(
                path,
                'has a key that YAML does not read as text, as it does with 8 and "on"; '
                "put it in quotes",
                line=line,
            )
            return None
        return text

    def _entry(
        self,
        name: str,
        key_node: yaml.Node,
        value_node: yaml.Node,
        path: KeyPath,
        values: dict[str, Any],
    ) -> None:
        at = (*path, name)
        line = key_node.start_mark.line + 1
        if name in values:
            first = self.findings.lines[at]
            self.findings.add(at, f"is given twice, on lines {first} and {line}", line=line)
            return
        self.findings.lines[at] = line
        values[name] = self._build(value_node, at)

    def _merged(self, node: yaml.Node, path: KeyPath) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Give the entries that ``<<: *anchor`` or ``<<: [*one, *two]`` brings."""
        self._count_one()
        if id(node) in self.open_nodes:
            self.findings.add(path, "merges (<<) what it stands in")
            return
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                for part in node.value:
                    yield from self._merged(part, path)
            elif isinstance(node, yaml.MappingNode):
                inner = [pair for pair in node.value if pair[0].tag == f"{_TAG}merge"]
                yield from (pair for pair in node.value if pair[0].tag != f"{_TAG}merge")
                for _, further in inner:
                    yield from self._merged(further, path)
            else:
                self.findings.add(
                    path,
                    "merges (<<) something that is no mapping",
                    line=node.start_mark.line + 1,
                )
        finally:
            self.open_nodes.discard(id(node))
