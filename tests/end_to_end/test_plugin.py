"""``twistd`` finds the ``llmproxy`` subcommand however the project is installed, or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.daemon import BIN, ROOT
from tests.end_to_end.packages import install, make_environment, purelib, run

PLUGIN = "twisted/plugins/llmproxy_plugin.py"
_PRINT_FILES = (
    "import llmproxy.tap, twisted.plugins.llmproxy_plugin as plugin;"
    "print(plugin.__file__); print(llmproxy.__file__)"
)


def assert_found(python: Path, folder: Path, place: Path, **environ: str) -> None:
    """Assert that twistd knows the subcommand, from the files in one place and no other."""
    folder.mkdir()
    plugin, package = run(python, "-c", _PRINT_FILES, folder=folder, **environ).splitlines()
    assert Path(plugin).resolve() == place / PLUGIN
    assert Path(package).resolve() == place / "llmproxy" / "__init__.py"
    listed = run(python, BIN / "twistd", "--help", folder=folder, **environ)
    assert [line for line in listed.splitlines() if line.split()[:1] == ["llmproxy"]]
    options = run(python, BIN / "twistd", "llmproxy", "--help", folder=folder, **environ)
    assert "--config=" in options


def test_the_checkout_leaves_twisteds_packages_alone() -> None:
    """An ``__init__.py`` there would hide Twisted itself."""
    assert (ROOT / PLUGIN).is_file()
    for folder in (ROOT / "twisted", ROOT / "twisted" / "plugins"):
        assert not list(folder.glob("__init__.py*"))


def test_the_wheel_holds_the_package_and_the_plugin(wheel: Path, sources: Path) -> None:
    """All modules, nothing else: no tests, no benchmarks, no ``twisted/__init__.py``."""
    names = set(zipfile.ZipFile(wheel).namelist())
    (metadata,) = {
        name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")
    }
    code = {name for name in names if not name.startswith(f"{metadata}/")}
    package = (sources / "llmproxy").rglob("*")
    wanted = {str(path.relative_to(sources)) for path in package if path.is_file()}
    assert code == {PLUGIN, *wanted}
    assert f"{metadata}/licenses/LICENSE" in names
    entry_points = zipfile.ZipFile(wheel).read(f"{metadata}/entry_points.txt").decode()
    assert "llmproxy = llmproxy.cli:main" in entry_points


@pytest.mark.slow
def test_from_a_wheel(wheel: Path, tmp_path: Path) -> None:
    """Installed as a release is; the ``llmproxy`` command comes with it."""
    python = make_environment(tmp_path / "venv")
    install(python, tmp_path, [wheel])
    assert_found(python, tmp_path / "empty", purelib(python))
    said = run(python.parent / "llmproxy", "--version", folder=tmp_path)
    assert wheel.name.split("-")[1] in said


@pytest.mark.slow
def test_from_an_editable_install(sources: Path, tmp_path: Path) -> None:
    """Installed as ``make setup`` does: the files stay where they are."""
    python = make_environment(tmp_path / "venv")
    install(python, tmp_path, ["-e", sources])
    assert_found(python, tmp_path / "empty", sources)


def test_from_the_checkout(tmp_path: Path) -> None:
    """Not installed at all: PYTHONPATH is enough."""
    python = make_environment(tmp_path / "venv")
    assert_found(python, tmp_path / "empty", ROOT, PYTHONPATH=str(ROOT))
