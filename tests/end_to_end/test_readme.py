"""What the documents promise: the README's command streams as it stands, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.daemon import ROOT, Daemon, free_port

FIRST_SCREEN_LINES = 50
ADDRESS = re.compile(r"(127\.0\.0\.1|localhost):8000\b")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.M)


def readme() -> str:
    """Read the README."""
    return (ROOT / "README.md").read_text("utf-8")


def shell_commands(text: str) -> Iterator[str]:
    """Give the commands of all ``sh`` blocks; one may go over several lines."""
    for language, block in FENCE.findall(text):
        if language not in ("sh", "bash", "shell", "console"):
            continue
        pending = ""
        for line in block.splitlines():
            pending += line.removeprefix("$ ") if not pending else line
            if _is_whole(pending):
                yield pending
                pending = ""
            else:
                pending += "\n"


def _is_whole(command: str) -> bool:
    if command.endswith("\\"):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def test_the_first_screen() -> None:
    """It tells the two commands that do everything, and one to see it stream."""
    top = "\n".join(readme().splitlines()[:FIRST_SCREEN_LINES])
    assert "make run" in top
    assert "make test" in top
    assert "curl -N" in top


def test_the_curl_line_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a daemon with the shipped file: pieces one after another, then ``[DONE]``."""
    monkeypatch.delenv("LLMPROXY_API_KEY", raising=False)
    (command, *_) = [one for one in shell_commands(readme()) if "curl -N" in one]
    assert ADDRESS.search(command), command
    config = yaml.safe_load((ROOT / "etc" / "llmproxy.yaml").read_text("utf-8"))
    assert ADDRESS.fullmatch(config["server"]["listen"])
    port = free_port()
    config["server"]["listen"] = f"127.0.0.1:{port}"
    with Daemon(tmp_path, config) as daemon:
        daemon.wait_for_log("lists")
        environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        curl = subprocess.Popen(
            ["timeout", "20", "bash", "-c", ADDRESS.sub(f"127.0.0.1:{port}", command)],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert curl.stdout is not None
        lines = [(time.monotonic(), line.decode().strip()) for line in curl.stdout]
        _, complaints = curl.communicate()
    assert curl.returncode == 0, complaints
    pieces = [(when, line) for when, line in lines if line.startswith("data: ")]
    assert len(pieces) > 5, lines
    assert pieces[-1][1] == "data: [DONE]"
    # A word every thirty milliseconds: had anything on the way collected them, no time would pass.
    assert pieces[-1][0] - pieces[0][0] > 0.03 * len(pieces) / 2


def documents() -> list[Path]:
    """List the documents for people."""
    return sorted((*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")))


def prose(document: Path) -> str:
    """Read a document without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", document.read_text("utf-8")))


def anchors(document: Path) -> set[str]:
    """Give the anchors of a document's headings, as GitHub makes them."""
    text = FENCE.sub("", document.read_text("utf-8"))
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def test_relative_links_lead_somewhere() -> None:
    """To files of this repository, and to headings that they have."""
    broken = []
    for document in documents():
        for link in LINK.findall(prose(document)):
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            target, _, anchor = link.partition("#")
            file = (document.parent / target).resolve() if target else document
            if not file.exists() or not file.is_relative_to(ROOT):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
            elif anchor and file.suffix == ".md" and anchor not in anchors(file):
                broken.append(f"{document.relative_to(ROOT)}: {link} (no such heading)")
    assert not broken
