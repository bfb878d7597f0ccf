"""The systemd units: read by systemd's own tools, and held to what the daemon really does."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from http.client import HTTPSConnection
from pathlib import Path

import attrs
import pytest
import yaml

from llmproxy.config.model import Server
from tests.daemon import BIN, KEY, ROOT, Daemon, free_port, gateway_config
from tests.gateway.raw_client import chat_body
from tests.services import find_program
from tests.upstream.certificates import Authority

UNITS = ROOT / "systemd"
SERVICE = UNITS / "llmproxy.service"
SOCKET = UNITS / "llmproxy.socket"
WORKERS = UNITS / "llmproxy.service.d" / "workers.conf"
MOST_EXPOSED = 1.5
"""On the scale of ``systemd-analyze security``, from 0 to 10."""

needs_systemd = pytest.mark.skipif(
    not find_program("systemd-analyze"),
    reason="systemd-analyze is not installed (Debian: systemd)",
)


def values(unit: Path, name: str) -> list[str]:
    """Give what a unit sets a name to, each time."""
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def value(unit: Path, name: str) -> str:
    """Give what a unit sets a name to; it does so once."""
    (only,) = values(unit, name)
    return only


def commented_config(unit: Path, key: str) -> str:
    """Give the value of a key of the configuration that a unit's comment tells of."""
    (line,) = re.findall(rf"^#   .*\b{key}: (\"[^\"]+\")", unit.read_text(), re.MULTILINE)
    return str(yaml.safe_load(line))


def analyze(*arguments: str) -> str:
    """Run systemd-analyze; it must be content. Give what it says."""
    done = subprocess.run(
        [find_program("systemd-analyze"), "--no-pager", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_systemd
def test_the_units_are_units(tmp_path: Path) -> None:
    """Not a word of complaint, once the program is where this environment has it."""
    folder = Path(shutil.copytree(UNITS, tmp_path / "units"))
    service = folder / SERVICE.name
    service.write_text(service.read_text().replace("/opt/llmproxy/bin", str(BIN)))
    said = analyze("verify", "--man=no", str(service), str(folder / SOCKET.name))
    assert said == ""


@needs_systemd
def test_little_is_exposed() -> None:
    """Systemd's own judgement of what the daemon could still do."""
    said = analyze(
        "security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", str(SERVICE)
    )
    (level,) = re.findall(r"Overall exposure level for llmproxy\.service: ([\d.]+)", said)
    assert float(level) <= MOST_EXPOSED


def test_a_daemon_of_systemd() -> None:
    """It tells when it is ready and that it lives, and is reloaded by a signal."""
    assert value(SERVICE, "Type") == "notify"
    assert value(SERVICE, "ExecReload") == "/bin/kill -HUP $MAINPID"
    assert int(value(SERVICE, "WatchdogSec")) > 0
    command = "/opt/llmproxy/bin/twistd --nodaemon --pidfile= llmproxy --config "
    assert value(SERVICE, "ExecStart") == f"{command}/etc/llmproxy/llmproxy.yaml"


def test_streams_may_end_first() -> None:
    """Systemd waits for longer than the daemon drains by default, and signals the first process."""
    (minutes,) = re.findall(r"^(\d+)min$", value(SERVICE, "TimeoutStopSec"))
    assert int(minutes) * 60 > Server().drain_timeout
    assert value(SERVICE, "KillMode") == "mixed"


def test_there_are_files_enough() -> None:
    """Two for each connection that is let in by default, and some for itself."""
    assert int(value(SERVICE, "LimitNOFILE")) >= 2 * Server().max_connections + 1000


def check_config(
    folder: Path, config: Mapping[str, object], **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run ``llmproxy check-config``."""
    file = folder / "llmproxy.yaml"
    file.write_text(yaml.safe_dump(config))
    return subprocess.run(
        [BIN / "llmproxy", "check-config", file],
        env={**os.environ, **environ},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_daemon_finds_its_credentials(tmp_path: Path) -> None:
    """The way that the unit tells of: from systemd's copy, whose names have a prefix."""
    name, _, directory = value(SERVICE, "LoadCredential").partition(":")
    variable, _, prefix = value(SERVICE, "Environment").partition("=")
    loaded = tmp_path / "run"
    loaded.mkdir()
    # %d is the directory of the copies, which are named ID_FILE when ID is that of a directory.
    (loaded / f"{name}_admin-token").write_text("0f4c77d1a9b84e21c3\n")
    file = commented_config(SERVICE, "token_file")
    assert directory in file
    config = {
        "backends": [{"name": "demo", "url": "demo:"}],
        "auth": {"enabled": False},
        "admin": {"enabled": True, "token_file": file},
    }
    found = check_config(tmp_path, config, **{variable: prefix.replace("%d", str(loaded))})
    assert found.returncode == 0, found.stderr
    missed = check_config(tmp_path, config, **{variable: f"{loaded}/"})
    assert missed.returncode == 1
    assert "cannot be read" in missed.stderr


def test_the_configuration_reads_the_number_of_workers(tmp_path: Path) -> None:
    """The drop-in sets what the configuration that it tells of reads."""
    variable, _, number = value(WORKERS, "Environment").partition("=")
    assert number == "auto"
    config = {
        "server": {"workers": commented_config(WORKERS, "workers")},
        "backends": [{"name": "demo", "url": "demo:"}],
        "auth": {"enabled": False},
    }
    assert check_config(tmp_path, config).returncode == 0
    # What it reads is checked: so this is read.
    read = check_config(tmp_path, config, **{variable: "some"})
    assert 'server.workers: "some"' in read.stderr


def test_the_socket_is_the_one_that_is_adopted(tmp_path: Path) -> None:
    """Of both families, on the port that the configuration would listen on itself."""
    assert value(SOCKET, "ListenStream") == Server().listen[0].removeprefix(":")
    assert value(SOCKET, "BindIPv6Only") == "both"
    config = {
        "server": {"listen": commented_config(SOCKET, "listen")},
        "backends": [{"name": "demo", "url": "demo:"}],
        "auth": {"enabled": False},
    }
    checked = check_config(tmp_path, config)
    assert checked.returncode == 0, checked.stderr
    assert "systemd:domain=INET6:index=0" in checked.stdout


@attrs.frozen
class Traced:
    """What a process asked of the kernel.

    Attributes:
        names: The calls.
        calls: They, as strace writes them.
    """

    names: frozenset[str]
    calls: tuple[str, ...]

    @classmethod
    def read(cls, file: Path) -> Traced:
        """Read what strace wrote."""
        lines = re.findall(r"^\d+\s+((\w+)\(.*)$", file.read_text(errors="replace"), re.MULTILINE)
        return cls(frozenset(name for _, name in lines), tuple(call for call, _ in lines))

    def matching(self, pattern: str) -> list[str]:
        """Give the calls that match."""
        return [call for call in self.calls if re.match(pattern, call)]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A daemon's whole life: it listens with TLS, connects with TLS by name, and keeps records."""
    strace = find_program("strace")
    if not strace:
        pytest.skip("strace is not installed (Debian: strace)")
    if subprocess.run([strace, "-o", "/dev/null", "true"], timeout=60, check=False).returncode:
        pytest.skip("strace may not trace here")
    folder = tmp_path_factory.mktemp("traced")
    authority = Authority(folder, "ca")
    cert_file, key_file = authority.issue("127.0.0.1", "localhost")
    port, calls = free_port(), folder / "calls"
    tls = {"enabled": True, "cert_file": cert_file, "key_file": key_file}
    loop = {"name": "loop", "url": f"https://localhost:{port}", "models": ["loop"]}
    config = gateway_config(
        port,
        [
            {"name": "demo", "url": "demo:"},
            {**loop, "tls": {"ca_file": authority.cert_file}, "api_key": KEY},
        ],
        server={"listen": f"127.0.0.1:{port}", "tls": tls},
        admin={"db_path": str(folder / "keys.db")},
        usage={
            "reporters": [{"name": "local", "type": "builtin"}],
            "spool_dir": str(folder / "spool"),
        },
        logging={"access": {"output": "file", "path": str(folder / "access.log")}},
    )
    config["auth"]["pipeline"].append({"name": "team", "type": "builtin"})
    # -D: the daemon stays the process that was started, and gets its signals.
    under = (strace, "-D", "-f", "-qq", "-s", "256", "-o", str(calls))
    daemon = Daemon(folder, config, under=under)
    daemon.start(timeout_s=120)
    try:
        daemon.wait_for_log("backend demo lists", timeout_s=60)
        context = ssl.create_default_context(cafile=authority.cert_file)
        for method, path, model, status in (
            ("POST", "/v1/chat/completions", "demo", 200),
            ("POST", "/v1/chat/completions", "loop", 508),  # itself says so, over TLS
            ("GET", "/me", "", 200),
            ("GET", "/metrics", "", 200),
        ):
            body = chat_body(model=model, stream=True) if model else None
            connection = HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
            connection.request(method, path, body, {"Authorization": f"Bearer {KEY}"})
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True)
            connection.close()
    finally:
        ended = daemon.stop(timeout_s=120)
    assert ended == 0, daemon.log()
    assert (folder / "access.log").read_text()
    return Traced.read(calls)


def syscalls(group: str) -> set[str]:
    """Give the system calls of one of systemd's groups, those of groups within it as well."""
    found: set[str] = set()
    for line in analyze("syscall-filter", group).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= syscalls(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


@needs_systemd
def test_its_system_calls_are_allowed(traced: Traced) -> None:
    """The unit's filter stops nothing that the daemon does."""
    allowed: set[str] = set()
    for listed in values(SERVICE, "SystemCallFilter"):
        for group in listed.removeprefix("~").split():
            if listed.startswith("~"):
                allowed -= syscalls(group)
            else:
                allowed |= syscalls(group)
    assert {"read", "sendmsg", "fdatasync"} <= allowed & traced.names
    # SQLite leaves its files to their owner, when it is root that runs it.
    only_root = {"fchown"} if os.geteuid() == 0 else set()
    assert traced.names - only_root <= allowed


def test_memory_is_written_and_run(traced: Traced) -> None:
    """TLS does not work without; should it ever, the unit can deny it."""
    wanted = traced.matching(r"mmap\([^)]*PROT_WRITE\|PROT_EXEC|(pkey_)?mprotect\([^)]*PROT_EXEC")
    assert wanted
    assert value(SERVICE, "MemoryDenyWriteExecute") == "no"


def test_its_sockets_are_of_allowed_families(traced: Traced) -> None:
    """But for the resolver's question for addresses, which it does without."""
    families = set(re.findall(r"socket(?:pair)?\((AF_\w+)", "\n".join(traced.calls)))
    allowed = set(value(SERVICE, "RestrictAddressFamilies").split())
    assert {"AF_INET", "AF_UNIX"} <= families & allowed
    assert families - allowed <= {"AF_NETLINK"}


def test_it_writes_into_its_own_files(traced: Traced) -> None:
    """What it opens for writing is what the configuration names: all else is read-only there."""
    opened = traced.matching(r"open(at)?\([^)]*O_(WRONLY|RDWR|CREAT)")
    names = {re.findall(r'"([^"]*)"', call)[0] for call in opened}
    ours = {name for name in names if "/traced" in name}
    assert {Path(name).name for name in ours} >= {"access.log", "keys.db"}
    assert {name for name in names - ours if not name.startswith(("/dev/null", "/tmp/"))} == set()
