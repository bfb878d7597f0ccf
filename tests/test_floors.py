"""Imports only ever point down: the floors of ARCHITECTURE.md, held to by walking the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llmproxy"

FLOORS: dict[str, int] = {
    "errors": 0,
    "values": 0,
    "deliveries": 0,
    "entitlements": 0,
    "key_records": 0,
    "wire": 0,
    "vitals": 0,
    "config": 0,
    "interfaces": 1,
    "timeouts": 1,
    "rounds": 1,
    "descriptors": 1,
    "upstream": 2,
    "balancing": 2,
    "backends": 2,
    "health": 2,
    "auth": 2,
    "limits": 2,
    "stores": 2,
    "usage": 2,
    "metrics": 2,
    "logs": 2,
    "proxy": 3,
    "resources": 4,
    "site": 4,
    "channel": 4,
    "listeners": 4,
    "reader": 4,
    "tls": 4,
    "proxy_protocol": 4,
    "unix_sockets": 4,
    "transport": 4,
    "stall": 4,
    "service": 5,
    "fleet": 5,
    "front": 5,
    "logbooks": 5,
    "reload": 5,
    "systemd": 5,
    "rights": 5,
    "observation": 5,
    "storage": 5,
    "metering": 5,
    "lifecycle": 5,
    "tap": 5,
    "cli": 5,
    "commands": 5,
    "workers": 5,
}

SIDEWAYS = {
    # Rooms of floor 2 do not use each other, but for these edges.
    ("health", "backends"): "checks read answers with the same bounds, and name failures alike",
}

NOT_BELOW = {
    # The data path gets what it needs of floor 2 by constructor.
    (3, 2),
}

PURE = frozenset(("twisted", "treq", "zope", "OpenSSL", "service_identity"))
"""What floor 0 may not import: it has no I/O and no clock."""

IMPURE_STDLIB = frozenset(
    ("socket", "time", "os", "random", "threading", "asyncio", "subprocess", "select", "ssl")
)
ALLOWED_IMPURITIES = {
    "config.load": {"os", "ssl"},  # the one place that opens files, and looks into certificates
    "config.files": {"os"},  # the arithmetic of paths only
}


def modules() -> Iterator[tuple[str, Path]]:
    """Give each module's name below the package, and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imports(path: Path) -> Iterator[str]:
    """Give the full names of all that a module imports, under TYPE_CHECKING as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def room(name: str) -> str:
    """Give the room that a module is in."""
    return name.split(".")[0]


MODULES = [pytest.param(name, path, id=name) for name, path in modules() if name != "__init__"]


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_imports_point_down(name: str, path: Path) -> None:
    """A module imports only of its own room and of floors below, as the table says."""
    here = room(name)
    floor = FLOORS[here]
    for imported in imports(path):
        if not imported.startswith("llmproxy."):
            continue
        there = room(imported.removeprefix("llmproxy."))
        if there == here:
            continue
        below = FLOORS[there]
        if below == floor == 2:
            assert (here, there) in SIDEWAYS, f"{name} imports {imported}, a neighbour"
        elif below == floor:
            assert floor in (0, 4, 5), f"{name} imports {imported}"
        else:
            assert below < floor, f"{name} (floor {floor}) imports {imported} (floor {below})"
            assert (floor, below) not in NOT_BELOW, f"{name} imports {imported}"


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_floor_zero_is_pure(name: str, path: Path) -> None:
    """Floor 0 knows no Twisted, no I/O and no clock."""
    if FLOORS[room(name)] != 0:
        return
    tops = {imported.split(".")[0] for imported in imports(path)}
    assert not tops & PURE
    assert not tops & IMPURE_STDLIB - ALLOWED_IMPURITIES.get(name, set())


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_reactor_is_handed_in(name: str, path: Path) -> None:
    """Only ``tap`` and ``cli`` import the global reactor."""
    if name in ("tap", "cli"):
        return
    source = path.read_text()
    assert "from twisted.internet import reactor" not in source
    assert "twisted.internet.reactor" not in set(imports(path))


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_modules_stay_small(name: str, path: Path) -> None:
    """No module is over 600 lines."""
    del name
    assert len(path.read_text().splitlines()) <= 600


def test_every_room_has_a_floor() -> None:
    """No room is missing from the table, and none stands there that is gone."""
    rooms = {room(name) for name, _ in modules()} - {"__init__"}
    assert rooms == set(FLOORS)


def test_every_sideways_edge_is_used() -> None:
    """An allowed edge that nobody uses any more is taken off the list."""
    used = {
        (room(name), room(imported.removeprefix("llmproxy.")))
        for name, path in modules()
        for imported in imports(path)
        if imported.startswith("llmproxy.")
    }
    assert set(SIDEWAYS) <= used
