"""What testssl.sh makes of the listeners' TLS: nothing weak is offered, nothing known is broken."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon, free_port, gateway_config
from tests.upstream.certificates import Authority

TESTSSL = shutil.which("testssl") or shutil.which("testssl.sh")
DEADLINE_S = 560

NOT_OURS = {
    "cert_revocation": "a CA's affair: where its certificates are taken back",
    "engine_problem": "of the openssl that testssl.sh runs",
    "DNS_CAArecord": "the name's affair",
    # It hangs up so soon that the ticket may not have come; see test_a_session_is_resumed.
    "sessionresumption_ticket": "a race that its client may lose",
}
"""Findings that say nothing of how we speak TLS."""


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE_S + 40)
@pytest.mark.skipif(TESTSSL is None, reason="testssl.sh is not installed: see tests/setup")
def test_grade(tmp_path: Path) -> None:
    """Protocols, ciphers, their order, forward secrecy, the certificate, and known holes."""
    authority = Authority(tmp_path, "authority")
    cert_file, key_file = authority.issue("localhost", days=90)
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    config["server"]["tls"] = {"enabled": True, "cert_file": cert_file, "key_file": key_file}
    report = tmp_path / "report.json"
    with Daemon(tmp_path, config) as daemon:
        done = subprocess.run(
            [
                *(str(TESTSSL), "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"),
                *("-p", "-s", "-P", "-f", "-S", "-U"),
                *("--ip", "127.0.0.1", "--add-ca", authority.cert_file),
                *("--jsonfile", str(report), f"localhost:{daemon.port}"),
            ],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert "Traceback" not in daemon.log()
    assert report.exists(), done.stdout + done.stderr
    findings: dict[str, Any] = {one["id"]: one for one in json.loads(report.read_text())}
    bad = [
        one
        for one in findings.values()
        if one["severity"] not in ("OK", "INFO") and one["id"] not in NOT_OURS
    ]
    assert bad == [], done.stdout
    for old in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert findings[old]["finding"] == "not offered"
    for new in ("TLS1_2", "TLS1_3"):
        assert findings[new]["finding"].startswith("offered")
    assert findings["cert_chain_of_trust"]["finding"] == "passed."
    # A run that stopped halfway would have found nothing bad either.
    assert {"cipher_order", "heartbleed", "ROBOT", "LUCKY13", "RC4"} <= set(findings)
