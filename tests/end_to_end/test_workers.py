"""Several workers: the daemon with ``server.workers`` above one, and its processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.processes import process_tree
from tests.daemon import Daemon, free_port, gateway_config
from tests.end_to_end.usage_receiver import UsageReceiver
from tests.gateway.raw_client import Cut, RawClient, chat_body
from tests.scripted_backend import Connection, ScriptedBackend

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
END = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\ndata: [DONE]\n\n'
)


def until(met: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Wait until something is so; give what it gave."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := met():
            return found
        time.sleep(0.02)
    raise AssertionError(what)


def workers_of(daemon: Daemon) -> set[int]:
    """Give the process ids of a daemon's workers."""
    assert daemon.process is not None
    return set(process_tree(daemon.process.pid)[1:])


def runs(process: int) -> bool:
    """Say whether a process has not ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # nobody may wait for an orphan


def listens(port: int) -> bool:
    """Say whether somebody does."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionError:
        return False
    return True


def owner(client: RawClient, processes: set[int]) -> int | None:
    """Give the process that holds the other end of a client's connection."""
    ours = client.sock.getsockname()[1]
    theirs = client.sock.getpeername()[1]
    wanted = f"0100007F:{theirs:04X} 0100007F:{ours:04X} "
    (line,) = [one for one in Path("/proc/net/tcp").read_text().splitlines() if wanted in one]
    name = f"socket:[{line.split()[9]}]"
    for process in processes:
        folder = Path(f"/proc/{process}/fd")
        if any(os.readlink(one) == name for one in folder.iterdir()):
            return process
    return None


class Streams:
    """A backend whose streams wait for the test before they end."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Answer one request after the other."""
        while connection.read_request() is not None:
            connection.stream_head()
            connection.chunk(EVENT)
            self.go_on.wait(60)
            connection.chunk(END)
            connection.chunk(b"")


@contextmanager
def running(
    folder: Path,
    backend: str,
    environ: dict[str, str] | None = None,
    server: dict[str, Any] | None = None,
    **sections: Any,
) -> Iterator[Daemon]:
    """Run a daemon with two workers, all of which serve."""
    port = free_port()
    config = gateway_config(port, [{"name": "b", "url": backend}], **sections)
    config["server"] = {**config["server"], "workers": 2, **(server or {})}
    if "unix" in config["server"]:  # a listener more
        config["server"]["listen"] = [config["server"]["listen"], config["server"].pop("unix")]
    with Daemon(folder, config, environ) as daemon:
        daemon.wait_for_log("all workers serve", 30)
        yield daemon


def stream(daemon: Daemon, stack: ExitStack) -> RawClient:
    """Begin a stream, and wait for its first event."""
    client = stack.enter_context(RawClient(daemon.port, 60))
    client.post(chat_body(stream=True, stream_options={"include_usage": True}))
    assert client.head() == 200
    return client


def ends(client: RawClient) -> bool:
    """Read a stream to its end; say whether it was whole."""
    try:
        return client.body().endswith(b"[DONE]\n\n")
    except (Cut, ConnectionError):
        return False


def metric(daemon: Daemon, name: str) -> int:
    """Give the sum of a metric's samples."""
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)
    return int(sum(map(float, found)))


def requests_counted(daemon: Daemon) -> int:
    """Give how many requests the metrics have counted."""
    return metric(daemon, "llmproxy_requests_total")


def configuration(daemon: Daemon) -> dict[str, Any]:
    """Give what /ready says of the configuration in force."""
    with urllib.request.urlopen(f"{daemon.url}/ready", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)["config"]
        return found


def test_a_killed_worker(tmp_path: Path) -> None:
    """Only its own streams end; it is followed; all that ended well is counted and reported."""
    script = Streams()
    with ExitStack() as stack:
        receiver = stack.enter_context(UsageReceiver())
        backend = stack.enter_context(ScriptedBackend(script, models=("m",)))
        webhook = {"url": receiver.url, "batch_interval": "100ms"}
        daemon = stack.enter_context(
            running(
                tmp_path,
                backend.url,
                usage={
                    "spool_dir": str(tmp_path / "spool"),
                    "reporters": [{"name": "r", "type": "webhook", "webhook": webhook}],
                },
            )
        )
        both = workers_of(daemon)
        assert len(both) == 2
        clients: list[tuple[RawClient, int | None]] = []
        while len(clients) < 20 or {one for _, one in clients} != both:
            assert len(clients) < 200, "one worker takes all connections"
            client = stream(daemon, stack)
            clients.append((client, owner(client, both)))
        victim = min(both)
        os.kill(victim, signal.SIGKILL)
        for client, process in clients:
            if process == victim:
                assert not ends(client)
        until(lambda: len(workers_of(daemon) - {victim}) == 2, "nobody follows")
        daemon.wait_for_log("ended: by SIGKILL")
        until(lambda: daemon.log().count("all workers serve") == 2, "the other does not serve")
        script.go_on.set()
        others = [client for client, process in clients if process != victim]
        assert all(map(ends, others))
        more = [ends(stream(daemon, stack)) for _ in range(10)]
        assert all(more)
        wanted = len(others) + len(more)
        until(lambda: requests_counted(daemon) == wanted, f"{wanted} requests are not counted")
        until(lambda: len(receiver.ids()) == wanted, f"{wanted} records do not come")
        assert all(len(ids) == 1 for ids in receiver.ids().values())
        assert daemon.stop(30) == 0
        assert len(os.listdir(tmp_path / "spool")) >= 2


def test_reload_and_end(tmp_path: Path) -> None:
    """Both are passed on: streams end well, and then all processes."""
    script = Streams()
    with ExitStack() as stack:
        backend = stack.enter_context(ScriptedBackend(script, models=("m",)))
        daemon = stack.enter_context(running(tmp_path, backend.url))
        both = workers_of(daemon)
        clients = [stream(daemon, stack) for _ in range(6)]
        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.log().count("is in force") == 3, "the reload is not passed on")
        until(lambda: daemon.log().count("all workers serve") == 2, "they do not serve again")
        assert workers_of(daemon) == both
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_log("received SIGTERM")
        script.go_on.set()
        assert all(map(ends, clients))
        assert daemon.process.wait(30) == 0
        assert not any(os.path.exists(f"/proc/{one}") for one in both)


def test_a_bad_file_reaches_no_worker(tmp_path: Path) -> None:
    """It is logged once, and shown until a reload goes well; all go on as they were."""

    def results() -> set[str]:
        return {configuration(daemon)["last_reload"]["result"] for _ in range(10)}

    with running(tmp_path, "demo:") as daemon:
        both = workers_of(daemon)
        good = yaml.safe_load(daemon.file.read_text())
        daemon.write({"backends": 5})
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_log("backends: a number (hidden) is not a list")
        until(lambda: configuration(daemon)["last_reload"], "it is not shown")
        time.sleep(0.2)
        assert results() == {"failed"}
        assert daemon.log().count("reload failed") == 1
        assert workers_of(daemon) == both
        os.kill(min(both), signal.SIGKILL)
        until(lambda: daemon.log().count("all workers serve") == 2, "nobody follows")
        assert results() == {"failed"}
        shown = "llmproxy_config_last_reload_successful"
        until(lambda: metric(daemon, shown) == 0, "the metric does not show it")
        assert daemon.reload(good)
        until(lambda: daemon.log().count("all workers serve") == 3, "they do not serve again")
        assert results() == {"ok"}
        until(lambda: metric(daemon, shown) == 1, "the metric does not show it")


@pytest.mark.parametrize("what", ["broken", "refused", "not read"])
def test_who_follows_runs_what_the_others_run(tmp_path: Path, what: str) -> None:
    """Whatever the file says by then: what is in force is what the parent has read."""
    secret = tmp_path / "secret"
    secret.write_text("of-the-backend")
    with ExitStack() as stack:
        backend = stack.enter_context(ScriptedBackend(Streams(), models=("m",)))
        port = free_port()
        entry = {"name": "b", "url": backend.url, "api_key_file": str(secret)}
        config = gateway_config(port, [entry])
        config["server"]["workers"] = 2
        daemon = stack.enter_context(Daemon(tmp_path, config))
        daemon.wait_for_log("all workers serve", 30)
        before = configuration(daemon)
        secret.unlink()
        if what == "broken":
            daemon.file.write_text("backends: [")
        else:
            workers = 3 if what == "refused" else 2
            demo = {"name": "other", "url": "demo:"}
            server = {**config["server"], "workers": workers}
            daemon.write({**config, "backends": [demo], "server": server})
        if what != "not read":
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_log("stays in force")
        for process in workers_of(daemon):
            os.kill(process, signal.SIGKILL)
        until(lambda: daemon.log().count("all workers serve") >= 2, "nobody serves")
        assert "with status 1" not in daemon.log()
        assert {configuration(daemon)["digest"] for _ in range(10)} == {before["digest"]}
        stream(daemon, stack)
        assert backend.seen[-1].header("authorization") == "Bearer of-the-backend"


def test_load_balancers_are_told_before_anybody_is_refused(tmp_path: Path) -> None:
    """As with one worker: /ready is 503 for the delay, on every listener; then nobody listens."""
    path = tmp_path / "sock"
    server = {"drain_delay": "2s", "unix": f"unix:{path}"}
    with running(tmp_path, "demo:", server=server) as daemon:
        daemon.signal(signal.SIGTERM)
        began_s = time.monotonic()
        until(lambda: daemon.log().count("listeners close in 2 s") == 2, "they do not end")
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{daemon.url}/ready", timeout=10)
        with RawClient(daemon.port, 30) as late:
            assert late.post(chat_body(model="demo", stream=True)).head() == 200
            assert late.body().endswith(b"[DONE]\n\n")
        with socket.socket(socket.AF_UNIX) as local:
            local.connect(str(path))
        assert daemon.process is not None
        assert daemon.process.wait(30) == 0
        assert time.monotonic() - began_s > 1.5
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", daemon.port), 5)
        assert not path.exists()


def test_systemd_hears_of_all_workers(tmp_path: Path) -> None:
    """READY comes when both serve, and STOPPING at the end."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        heard.settimeout(30)
        with running(tmp_path, "demo:", {"NOTIFY_SOCKET": address}) as daemon:
            assert b"READY=1" in heard.recv(4096)
            assert daemon.stop(30) == 0
        assert b"STOPPING=1" in heard.recv(4096)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_hurried", [False, True])
def test_signals_to_all_processes(tmp_path: Path, number: signal.Signals, is_hurried: bool) -> None:
    """As a terminal's Ctrl-C: streams end well; a second signal waits for no stream."""
    script = Streams()
    with ExitStack() as stack:
        backend = stack.enter_context(ScriptedBackend(script, models=("m",)))
        daemon = stack.enter_context(running(tmp_path, backend.url))
        client = stream(daemon, stack)
        assert daemon.process is not None
        everybody = process_tree(daemon.process.pid)
        for process in everybody:
            os.kill(process, number)
        daemon.wait_for_log("requests are running")
        time.sleep(0.2)  # in which the parent has told its workers
        assert "again" not in daemon.log()
        if is_hurried:
            for process in everybody:
                with suppress(ProcessLookupError):  # one without a stream has ended
                    os.kill(process, number)
            assert daemon.process.wait(30) == 0
        else:
            script.go_on.set()
        assert ends(client) == (not is_hurried)
        assert daemon.process.wait(30) == 0


def test_a_killed_parent(tmp_path: Path) -> None:
    """Its workers finish their streams and end; another daemon has the address."""
    script = Streams()
    with ExitStack() as stack:
        backend = stack.enter_context(ScriptedBackend(script, models=("m",)))
        daemon = stack.enter_context(running(tmp_path, backend.url))
        both = workers_of(daemon)
        try:
            clients = [stream(daemon, stack) for _ in range(6)]
            assert daemon.process is not None
            daemon.process.kill()
            until(lambda: daemon.log().count("the parent is gone, ending") == 2, "nobody minds")
            daemon.process.wait()
            until(lambda: not listens(daemon.port), "somebody still listens")
            with Daemon(tmp_path, yaml.safe_load(daemon.file.read_text())) as following:
                following.wait_for_log("all workers serve", 30)
                script.go_on.set()
                assert all(map(ends, clients))
                until(lambda: not any(map(runs, both)), "a worker stays")
        finally:
            for process in filter(runs, both):
                os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("what", ["an address in use", "a file that a worker cannot use"])
def test_it_cannot_start(tmp_path: Path, what: str) -> None:
    """One line says why, and the exit status is 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if what == "an address in use" else free_port()
        config = gateway_config(port, [{"name": "b", "url": "demo:"}])
        config["server"]["workers"] = 2
        if what != "an address in use":
            (tmp_path / "spool").write_text("no directory")
            config["usage"] = {
                "spool_dir": str(tmp_path / "spool"),
                "reporters": [{"name": "l", "type": "log"}],
            }
        daemon = Daemon(tmp_path, config)
        with suppress(AssertionError):  # whether it is seen to end so soon is chance
            daemon.start()
        assert daemon.process is not None
        assert daemon.process.wait(30) == 1
        assert ("cannot listen on" if what == "an address in use" else "usage") in daemon.log()
        assert "Traceback" not in daemon.log()


def test_limits_in_memory_are_told_of(tmp_path: Path) -> None:
    """Each worker counts by itself: the operator should know."""
    with running(tmp_path, "demo:", rate_limit={"per_key": {"requests_per_minute": 5}}) as daemon:
        daemon.wait_for_log("each of the 2 workers counts rate limits by itself")
        run = subprocess.run(
            ["ps", "-o", "stat=", "-p", ",".join(map(str, workers_of(daemon)))],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Z" not in run.stdout
