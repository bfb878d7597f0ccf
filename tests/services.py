"""Real Redis, PostgreSQL, MariaDB and Prometheus servers for tests, on free ports of 127.0.0.1.

Each has a temporary folder of its own and knows nothing of what is tested with it. They are stopped
when they are left, and end by themselves when the tests are killed (unless they were started in
another thread than the main one). Starting takes a Redis a tenth
of a second, the databases some seconds: share them (``redis_server``, ``postgres_server`` and
``maria_server`` are fixtures), unless the test stops them.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlencode

from tests.daemon import free_port

USER = "tester"
"""Who may log in to the databases."""

PASSWORD = "pass'word %s/@:"
"""Their password: one that must be quoted in every connection string."""

DATABASE = "llmproxy_test"
"""The database that is theirs."""

_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/postgresql/*/bin")
"""Where Debian puts programs that are not for everybody's PATH."""


class NotInstalled(Exception):
    """The program of a server is not there; says which, and where it comes from."""


def find_program(*names: str) -> str:
    """Give the path of the first of these programs that is there; of none: nothing."""
    places = [str(place) for pattern in _PLACES for place in Path("/").glob(pattern[1:])]
    path = os.pathsep.join([os.environ.get("PATH", ""), *reversed(places)])
    return next((found for name in names if (found := shutil.which(name, path=path))), "")


class RealServer:
    """A server program on 127.0.0.1, from entering to leaving.

    Attributes:
        port: Its port, the same after a restart.
    """

    package: ClassVar[str]
    programs: ClassVar[tuple[tuple[str, ...], ...]]
    account: ClassVar[str] = ""
    end_signal: ClassVar[signal.Signals] = signal.SIGTERM
    kill_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self) -> None:
        if reason := self.missing():
            raise NotInstalled(reason)
        self.port = free_port()
        self._kept = TemporaryDirectory(prefix="llmproxy-test-")
        self.folder = Path(self._kept.name)
        self._process: subprocess.Popen[bytes] | None = None
        if self._switches_account:
            shutil.chown(self.folder, self.account)

    def __repr__(self) -> str:
        state = "running" if self._process else "stopped"
        return f"<{type(self).__name__} 127.0.0.1:{self.port} {state}>"

    @classmethod
    def missing(cls) -> str:
        """Say why it cannot be used here; nothing: it can."""
        for names in cls.programs:
            if not find_program(*names):
                return f"{names[0]} is not installed (Debian: {cls.package})"
        return ""

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it and wait until it answers."""
        assert self._process is None, "it runs already"
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._as_account(self._command()),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + timeout_s
        while not self._answers():
            assert self._process.poll() is None, f"{self!r} ended: {self.log()}"
            assert time.monotonic() < end, f"{self!r} does not answer: {self.log()}"
            time.sleep(0.02)

    def stop(self, *, kill: bool = False, timeout_s: float = 20.0) -> None:
        """End it, and wait until it has ended.

        Args:
            kill: At once, as in a crash.
            timeout_s: How long it may take, in seconds, before it is killed anyway.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.kill_signal if kill else self.end_signal)
        process.send_signal(signal.SIGCONT)  # after that: who is paused is to do nothing else
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, *, kill: bool = False) -> None:
        """Stop it and start it, on the same port."""
        self.stop(kill=kill)
        self.start()

    def pause(self) -> None:
        """Have it accept connections and say nothing: the server that hangs."""
        self._signal_all(signal.SIGSTOP)
        end = time.monotonic() + 5
        while not all(map(_is_stopped, self._pids())):
            assert time.monotonic() < end, f"{self!r} does not stop"
            time.sleep(0.005)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        """Stop it, and forget all that it kept."""
        if self._process is not None:
            self.resume()
        self.stop()
        self._kept.cleanup()

    def log(self) -> str:
        """Give all that it has printed."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    @property
    def _log_file(self) -> Path:
        return self.folder / "output.log"

    @property
    def _switches_account(self) -> bool:
        """Whether it must not run as the one who runs the tests: root."""
        return bool(self.account) and os.geteuid() == 0

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):  # a child may have ended meanwhile
                os.kill(pid, number)

    def _pids(self) -> list[int]:
        """Give its process and those that it started."""
        assert self._process is not None, "it does not run"
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def _as_account(self, command: list[str]) -> list[str]:
        """Give the command that runs as another account, and ends when the tests do."""
        if not (setpriv := find_program("setpriv")):
            assert not self._switches_account, "setpriv is not installed (Debian: util-linux)"
            return command
        options = [setpriv]
        if threading.current_thread() is threading.main_thread():
            # Sent when the thread that started it ends: other threads may end before the tests do.
            options.append(f"--pdeathsig={self.end_signal.name.removeprefix('SIG')}")
        if self._switches_account:
            account = pwd.getpwnam(self.account)
            options += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        return [*options, "--", *command] if options[1:] else command

    def _run(self, command: list[str]) -> None:
        """Run something that prepares the folder."""
        done = subprocess.run(
            self._as_account(command),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout!r} {done.stderr!r}"

    def _prepare(self) -> None:
        """Make what must be in the folder before the first start."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


def _is_stopped(pid: int) -> bool:
    """Say whether all threads of a process are stopped by a signal, or it is gone."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        states = [(each / "stat").read_text().rpartition(")")[2].split()[0] for each in threads]
    except (FileNotFoundError, ProcessLookupError):
        return not Path(f"/proc/{pid}").exists()
    return set(states) <= set("TZX")


class RedisServer(RealServer):
    """A Redis, empty at first.

    Args:
        password: What clients must authenticate with; empty: nothing.
        appendonly: Whether what it holds survives a restart.
        options: Further ones of its command line.
    """

    package = "redis-server"
    programs = (("redis-server", "valkey-server"),)

    def __init__(
        self, *, password: str = "", appendonly: bool = False, options: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.password = password
        self._appendonly = appendonly
        self._options = options

    @property
    def addr(self) -> str:
        """Its address, as in ``storage.caches[].addr``."""
        return f"127.0.0.1:{self.port}"

    def send(self, *words: str | bytes, timeout_s: float = 10.0) -> bytes:
        """Send a command past everything that is tested; give the reply as it came."""
        commands = [("AUTH", self.password)] if self.password else []
        with socket.create_connection(("127.0.0.1", self.port), timeout_s) as connection:
            reply = b""
            for command in (*commands, words):
                connection.sendall(_encoded(command))
                reply = b""
                while not reply.endswith(b"\r\n"):
                    piece = connection.recv(65536)
                    if not piece:
                        raise ConnectionError(f"{self!r} closed the connection after {reply!r}")
                    reply += piece
        return reply

    def flush(self) -> None:
        """Empty it, its scripts as well."""
        assert self.send("FLUSHALL") == b"+OK\r\n"
        assert self.send("SCRIPT", "FLUSH") == b"+OK\r\n"

    def _command(self) -> list[str]:
        command = [find_program(*self.programs[0]), "--port", str(self.port)]
        command += ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "yes" if self._appendonly else "no"]
        if self.password:
            command += ["--requirepass", self.password]
        return [*command, *self._options]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.send("PING") == b"+PONG\r\n"
        return False


def _encoded(words: tuple[str | bytes, ...]) -> bytes:
    encoded = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in encoded)


class PostgresServer(RealServer):
    """A PostgreSQL with the database `DATABASE` of the user `USER`."""

    package = "postgresql"
    programs = (("postgres",), ("initdb",))
    account = "postgres"
    end_signal = signal.SIGINT  # "fast": it does not wait for its clients
    kill_signal = signal.SIGQUIT  # "immediate": as in a crash, but for its children

    def _prepare(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        if self._switches_account:
            shutil.chown(secret, self.account)
        command = [find_program("initdb"), "--pgdata", str(self.folder / "data"), "--no-sync"]
        command += ["--username", USER, "--pwfile", str(secret), "--auth", "scram-sha-256"]
        self._run([*command, "--encoding", "UTF8", "--locale", "C"])

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it and wait until it answers."""
        super().start(timeout_s)
        import psycopg  # only tests with this server need it

        with (
            psycopg.connect(**self._login("postgres"), autocommit=True) as connection,
            contextlib.suppress(psycopg.errors.DuplicateDatabase),
        ):
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def run(self, *statements: str) -> None:
        """Run SQL past everything that is tested."""
        import psycopg

        with psycopg.connect(**self._login(DATABASE), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def _login(self, database: str) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": str(self.port),
            "user": USER,
            "password": PASSWORD,
            "dbname": database,
            "connect_timeout": "10",
        }

    def _command(self) -> list[str]:
        command = [find_program("postgres"), "-D", str(self.folder / "data")]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder)]
        # What it has confirmed outlives it, when it is killed; it need not outlive the machine.
        for option in ("fsync=off", "full_page_writes=off"):
            command += ["-c", option]
        return command

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(**self._login("postgres")).close()
            return True
        return False


class MariaServer(RealServer):
    """A MariaDB with the database `DATABASE` of the user `USER`."""

    package = "mariadb-server"
    programs = (("mariadbd", "mysqld"), ("mariadb-install-db", "mysql_install_db"))
    account = "mysql"

    def _prepare(self) -> None:
        command = [find_program(*self.programs[1]), "--no-defaults", "--skip-test-db"]
        command += [f"--datadir={self.folder / 'data'}", "--skip-name-resolve"]
        self._run([*command, "--auth-root-authentication-method=normal"])
        quoted = PASSWORD.replace("'", "''")
        (self.folder / "first.sql").write_text(
            f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{quoted}';\n"
            f"GRANT ALL ON {DATABASE}.* TO '{USER}'@'%';\n"
        )

    def run(self, *statements: str) -> None:
        """Run SQL past everything that is tested."""
        with self._connected() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _connected(self):  # type: ignore[no-untyped-def] # the stubs' type has parameters of its own
        import pymysql  # only tests with this server need it

        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            database=DATABASE,
            connect_timeout=10,
            autocommit=True,
        )

    def _command(self) -> list[str]:
        command = [find_program(*self.programs[0]), "--no-defaults", f"--port={self.port}"]
        command += [f"--datadir={self.folder / 'data'}", f"--socket={self.folder / 'socket'}"]
        command += [f"--pid-file={self.folder / 'pid'}", f"--init-file={self.folder / 'first.sql'}"]
        command += ["--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"]
        # What it has confirmed outlives it, when it is killed; it need not outlive the machine.
        command += ["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0"]
        command += ["--character-set-server=utf8mb4"]
        return [*command, "--innodb-buffer-pool-size=16M", "--max-allowed-packet=64M"]

    def _answers(self) -> bool:
        import pymysql

        with contextlib.suppress(pymysql.err.OperationalError):
            self._connected().close()
            return True
        return False


class PrometheusServer(RealServer):
    """A Prometheus that scrapes one target every second.

    Args:
        target: Its address and port.
        path: Where its metrics are.
    """

    package = "prometheus"
    programs = (("prometheus",),)

    def __init__(self, target: str, path: str = "/metrics") -> None:
        super().__init__()
        self._target = target
        self._path = path

    def query(self, promql: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Ask for what is so now; give each value by its labels, in the order of their names."""
        answer = self._get(f"/api/v1/query?{urlencode({'query': promql})}")
        assert answer["status"] == "success", answer
        assert answer["data"]["resultType"] == "vector", answer
        return {
            tuple(sorted(one["metric"].items())): float(one["value"][1])
            for one in answer["data"]["result"]
        }

    def _get(self, path: str) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _prepare(self) -> None:
        scrape = {
            "job_name": "llmproxy",
            "scrape_interval": "1s",
            "metrics_path": self._path,
            "static_configs": [{"targets": [self._target]}],
        }
        # JSON is YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))

    def _command(self) -> list[str]:
        return [
            find_program("prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, HTTPException, ValueError):
            return bool(self._get("/api/v1/query?query=vector(1)")["status"] == "success")
        return False
