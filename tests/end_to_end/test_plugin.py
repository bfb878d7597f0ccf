"""``twistd`` finds the ``llmproxy`` subcommand however the project is installed, or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.daemon import BIN, ROOT

PLUGIN = "twisted/plugins/llmproxy_plugin.py"
LIMIT_S = 180


def run(*command: object, folder: Path, **environ: str) -> str:
    """Run a command that must succeed; give what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**inherited, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with this one's packages, but for ours; give its Python.

    Twisted is copied, because installations put a file into it; the others are linked.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    here = Path(sysconfig.get_path("purelib"))
    there = Path(run(python, "-c", _PRINT_PURELIB, folder=folder).strip())
    for entry in here.iterdir():
        name = entry.name.lower()
        if entry.suffix == ".pth" or name.startswith(("llmproxy", "__editable__")):
            continue
        if name == "twisted":
            unwanted = shutil.ignore_patterns("test", "dropin.cache", "llmproxy_plugin*")
            shutil.copytree(entry, there / entry.name, ignore=unwanted)
        else:
            (there / entry.name).symlink_to(entry)
    return python


_PRINT_PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"
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


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: builds leave files behind."""
    copy = tmp_path_factory.mktemp("sources") / "llmproxy"
    unwanted = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "dropin.cache", "node_modules"
    )
    return Path(shutil.copytree(ROOT, copy, ignore=unwanted)).resolve()


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made of it, by the build backend that pyproject.toml names."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, sources, folder=out)
    (made,) = out.glob("*.whl")
    return made


def install(python: Path, folder: Path, what: Sequence[object]) -> None:
    """Install into an environment with this one's pip."""
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "-q", "--no-deps", *what, folder=folder)


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
    place = Path(run(python, "-c", _PRINT_PURELIB, folder=tmp_path).strip()).resolve()
    assert_found(python, tmp_path / "empty", place)
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
