"""Both logs in systemd's own journald, which runs where nobody else sees it: in namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemon import BIN, KEY, ROOT, free_port, gateway_config

# With the first process of theirs all others end.
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

JOURNALD = "/usr/lib/systemd/systemd-journald"

# Its own /run, and so a journald, a daemon and a journal of its own.
SCRIPT = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal "/run/log/journal/$(cat /etc/machine-id)"
"$JOURNALD" & journald=$!
trap 'kill $journald' EXIT
wait_for() { for _ in $(seq 300); do "$@" && return; sleep 0.1; done; exit 1; }
ask() { curl -s -o "$FOLDER/answer" -H "X-Request-ID: journal-1" "$@"; }
wait_for test -S /run/systemd/journal/socket
"$TWISTD" -n --pidfile= llmproxy --config "$FOLDER/llmproxy.yaml" & daemon=$!
wait_for ask -f "http://127.0.0.1:$PORT/ready"
ask "http://127.0.0.1:$PORT/me"
kill $daemon; wait $daemon
journalctl --sync
journalctl -D /run/log/journal -t llmproxy -o json --no-pager > "$FOLDER/journal"
"""


def can_unshare() -> bool:
    """Say whether a mount namespace can be had here."""
    if not (shutil.which("unshare") and shutil.which("journalctl") and os.path.exists(JOURNALD)):
        return False
    return subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs journald, and root to run one of its own")
def test_both_logs(tmp_path: Path) -> None:
    """Each line is an entry with its fields; a request is found by its id."""
    port = free_port()
    config = gateway_config(
        port,
        [{"name": "demo", "url": "demo:"}],
        log={"output": "journal"},
        logging={"access": {"output": "journal", "format": "combined"}},
    )
    (tmp_path / "llmproxy.yaml").write_text(yaml.safe_dump(config))
    variables = {
        "JOURNALD": JOURNALD,
        "TWISTD": str(BIN / "twistd"),
        "FOLDER": str(tmp_path),
        "PORT": str(port),
    }
    ran = subprocess.run(
        [*NAMESPACES, "bash", "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    text = (tmp_path / "journal").read_text()
    entries: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    told = {str(entry["MESSAGE"]): entry for entry in entries}
    listening = told[f"listening on 127.0.0.1:{port}"]
    assert (listening["PRIORITY"], listening["_TRANSPORT"]) == ("6", "journal")
    assert listening["LLMPROXY_SOURCE"].startswith("llmproxy.listeners")
    (refused,) = [entry for entry in entries if entry.get("REQUEST_ID") == "journal-1"]
    assert refused["LLMPROXY_SOURCE"] == "access"
    assert '"GET /me HTTP/1.1" 401' in refused["MESSAGE"]
    assert KEY not in text
