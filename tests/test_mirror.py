"""The tests mirror the package file by file; checked both ways."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NO_LOGIC = frozenset(
    (
        "values.py",
        "deliveries.py",
        "entitlements.py",
        "key_records.py",
        "backends/membership.py",
        "usage/sources.py",
    )
)
"""Declarations only: what they say is tested where it is used; so are all of `interfaces`."""

WHOLE = frozenset(("end_to_end", "gateway", "benchmarks", "fuzz"))
"""Folders of tests that run several rooms, or the whole daemon."""

OF_THE_REPOSITORY = frozenset(("test_floors.py", "test_mirror.py"))


def expected(module: Path) -> Path:
    """Give the test file that belongs to a module."""
    return module.parent / f"test_{module.name}"


def package_modules() -> set[Path]:
    """Give all modules with something in them to test."""
    package = ROOT / "llmproxy"
    return {
        path.relative_to(package)
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
        and path.parent != package / "interfaces"
        and str(path.relative_to(package)) not in NO_LOGIC
    }


def test_every_module_has_its_tests() -> None:
    """For ``llmproxy/a/b.py`` there is ``tests/a/test_b.py``."""
    missing = {
        str(path) for path in package_modules() if not (ROOT / "tests" / expected(path)).exists()
    }
    assert not missing


def test_every_test_file_has_its_module() -> None:
    """No test file is left over from a module that is gone."""
    tests = ROOT / "tests"
    known = {expected(path) for path in package_modules()}
    stray = {
        str(path.relative_to(tests))
        for path in tests.rglob("test_*.py")
        if path.relative_to(tests).parts[0] not in WHOLE
        and path.name not in OF_THE_REPOSITORY
        and "node_modules" not in path.parts
        and path.relative_to(tests) not in known
        and path.relative_to(tests).name not in ("test_values.py",)
    }
    assert not stray
