"""Peers from PyPI: found where they are installed, a column where they run, named where not."""

import sys
from pathlib import Path

import pytest

from benchmarks import relay, rounds
from benchmarks.peers import PEERS, Peer
from benchmarks.toolchain import compiler
from tests.benchmarks.test_relay import MINIATURES

needs_compiler = pytest.mark.skipif(compiler() is None, reason="the load tools need a compiler: cc")

# A gateway that knows nothing of HTTP: what comes on one side goes out on the other.
PIPE = """\
import socket, sys, threading
def pipe(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
while True:
    client = server.accept()[0]
    model = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    for pair in ((client, model), (model, client)):
        threading.Thread(target=pipe, args=pair, daemon=True).start()
"""


def fake(program: str) -> Peer:
    """Give a peer that is a Python program, and is installed where attrs is: beside us."""

    def command(programs: Path, folder: Path, port: int, model_port: int) -> list[str]:
        assert (programs / "python").exists()
        return [sys.executable, "-c", program, str(port), str(model_port)]

    return Peer("attrs", command)


def run(monkeypatch: pytest.MonkeyPatch, peer: Peer, *words: str) -> int:
    """Measure one workload, with a peer in the place of those that there are."""
    monkeypatch.setattr(rounds, "_SETTLE_S", 0.0)
    monkeypatch.setattr(relay, "PEERS", (peer,))
    return relay.main(
        ["--gateways", "LLMProxy,attrs", "--workloads", "json", "--rounds", "1", *words],
        MINIATURES,
    )


@needs_compiler
def test_a_peer_has_a_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After those of nginx and LLMProxy, and its version is told."""
    words = ("--peers-venv", "/nonexistent", "--peers-venv", sys.prefix, "--seconds", "0.1")
    status = run(monkeypatch, fake(PIPE), *words)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "| workload | nginx | LLMProxy | ratio | target | attrs |" in printed.out
    (line,) = (line for line in printed.out.splitlines() if line.startswith("| json: CPU"))
    assert line.count("|") == 7
    assert float(line.split("|")[6].replace(" ", "")) >= 0
    assert "; attrs 2" in printed.out


@needs_compiler
@pytest.mark.parametrize(
    ("words", "why"),
    [
        pytest.param(("--peers-venv", "/nonexistent"), "it is in no --peers-venv", id="absent"),
        pytest.param(
            ("--peers-venv", sys.prefix), "did not start: exit status 3; it said: sorry", id="ends"
        ),
    ],
)
def test_a_peer_that_cannot_be_had_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    why: str,
) -> None:
    """It is named with the reason, and the others are measured as ever."""
    peer = fake("print('sorry'); raise SystemExit(3)")
    status = run(monkeypatch, peer, *words, "--seconds", "0.1")
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "| json: CPU" in printed.out
    assert "Left out:\n\n- attrs" in printed.out
    assert why in printed.out


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.package)
def test_every_peer_listens_where_it_is_told_and_asks_the_model_server(
    peer: Peer, tmp_path: Path
) -> None:
    """The ports reach its command line, or the file that it names."""
    words = peer.command(Path("/venv/bin"), tmp_path, 11111, 22222)
    assert words[0].startswith("/venv/bin/")
    assert words[words.index("--port") + 1] == "11111"
    assert words[words.index("--host") + 1] == "127.0.0.1"
    files = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "http://127.0.0.1:22222" in " ".join(words) + files
