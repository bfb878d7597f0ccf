"""Tests of `llmproxy.config.load`: whole files, bad and good, to the line and the words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.config.load import load_config, parse_config
from llmproxy.config.model import Config
from llmproxy.config.setting import Duration
from llmproxy.errors import ConfigError
from tests.config.conftest import Load, Problems
from tests.upstream.certificates import Authority

GOOD = """\
server:
  listen: "127.0.0.1:8000"
backends:
  - name: one
    url: "http://127.0.0.1:8001"
    weight: 2
auth:
  pipeline:
    - name: static
      type: static
      static:
        keys:
          - key: sk-123456
"""


def test_a_good_file(load: Load) -> None:
    """Values as written, defaults for the rest."""
    config = load(GOOD)
    assert config.server.listen == ("127.0.0.1:8000",)
    assert (config.backends[0].name, config.backends[0].weight) == ("one", 2)
    assert config.auth.pipeline[0].static.keys[0].key == "sk-123456"
    assert config.health_check.enabled
    assert "sk-123456" not in repr(config)


BAD: list[tuple[str, str, str]] = [
    # what to replace, with what, and the one problem that this gives
    (
        "weight: 2",
        "weight: heavy",
        '6: backends[0].weight: "heavy" is not a whole number; want one',
    ),
    ("weight: 2", "weight: 0", "6: backends[0].weight: 0 is too small; want at least 1"),
    ("weight: 2", "weight: 1.5", "6: backends[0].weight: 1.5 is not a whole number"),
    ("weight: 2", "weight: true", "6: backends[0].weight: true is not a whole number"),
    ("weight: 2", 'weight: "2"', '6: backends[0].weight: "2" is not a whole number'),
    ("weight: 2", "weight: 010", '6: backends[0].weight: "010" is not a whole number'),
    ("weight: 2", "weight:", "6: backends[0].weight: null is not a whole number"),
    ("weight: 2", "weight: [2]", "6: backends[0].weight: a list is not a whole number"),
    ("weight: 2", "wieght: 2", '6: backends[0].wieght: is an unknown key; did you mean "weight"?'),
    ("weight: 2", "timeout: 5 min", '6: backends[0].timeout: "5 min" is not a duration; want a'),
    ("weight: 2", "timeout: -1", "6: backends[0].timeout: -1 is not a duration"),
    ("weight: 2", "timeout: .inf", "6: backends[0].timeout: .inf is not a duration"),
    ("weight: 2", "timeout: true", "6: backends[0].timeout: true is not a duration"),
    ("weight: 2", "timeout: 1:30", '6: backends[0].timeout: "1:30" is not a duration'),
    (
        "server:",
        "routing: {breaker: {max_ejected: 50}}\nserver:",
        "1: routing.breaker.max_ejected: 50 is not a percentage; want a percentage from 0% to 100%",
    ),
    (
        "server:",
        "routing: {breaker: {window: 0}}\nserver:",
        "1: routing.breaker.window: 0 is too small; want at least 0.01 seconds",
    ),
    ("weight: 2", "max_concurrent: -1", "6: backends[0].max_concurrent: -1 is too small; want at"),
    ("weight: 2", "inject_usage: 'no'", '6: backends[0].inject_usage: "no" is not true or false'),
    ("weight: 2", "models: qwen", '6: backends[0].models: "qwen" is not a list; want one'),
    ("weight: 2", "name: two", "6: backends[0].name: is given twice, on lines 4 and 6"),
    ("weight: 2", "tls: {verify: 0}", "6: backends[0].tls.verify: 0 is not true or false"),
    ("weight: 2", "headers: {X-A: 5}", "6: backends[0].headers.X-A: a number (hidden) is not text"),
    ("weight: 2", "headers:\n      X-A: b\n      5: c", "8: backends[0].headers: has a key that"),
    ("weight: 2", "api_key: ${NONE}", "6: backends[0].api_key: ${NONE} is not set"),
    ("weight: 2", "api_key: x${", '6: backends[0].api_key: has a "${" that begins no reference'),
    ("weight: 2", "weight: ${N:-heavy}", '6: backends[0].weight: "heavy" is not a whole number'),
    ("name: one", "name: 1", '4: backends[0].name: 1 is not text; put it in quotes: "1"'),
    ("name: one", "name: off", '4: backends[0].name: off is not text; put it in quotes: "off"'),
    ("name: one", "name: ''", '4: backends[0].name: "" is empty; want a name'),
    ("- name: one\n    url", "- url", "4: backends[0].name: is missing; want unique;"),
    (
        ":8001",
        ":8001/v1",
        '5: backends[0].url: "http://127.0.0.1:8001/v1" ends in /v1, but',
    ),
    (":8001", ":80011", '5: backends[0].url: "http://127.0.0.1:80011" is not a URL'),
    ("backends:", "backend:", '3: backend: is an unknown key; did you mean "backends"?'),
    ("server:", "hooks: {}\nserver:", "1: hooks: is not available yet: hooks"),
    ("127.0.0.1:8000", "127.0.0.1", '2: server.listen: "127.0.0.1" is not an address to'),
    (
        "sk-123456",
        "12345678",
        "13: auth.pipeline[0].static.keys[0].key: a number (hidden) is not",
    ),
    (
        "key: sk-123456",
        "ky: sk-123456",
        "13: auth.pipeline[0].static.keys[0].ky: is an unknown key;",
    ),
    (
        "type: static",
        "type: builtin",
        "11: auth.pipeline[0].static: is given, but the type is builtin; want it removed, or type:",
    ),
    ("type: static", "type: statik", '10: auth.pipeline[0].type: "statik" cannot stand here;'),
]


@pytest.mark.parametrize(("old", "new", "expected"), BAD)
def test_one_mistake_gives_one_problem(
    problems: Problems, old: str, new: str, expected: str
) -> None:
    """With its line, its path, what was seen and what is wanted."""
    assert old in GOOD
    told = problems(GOOD.replace(old, new, 1))
    assert len(told) == 1, told
    assert told[0].startswith(f"x.yaml:{expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml: is empty; want at least backends:"),
        ("- a\n", "x.yaml:1: is a list, not a mapping; want keys such as backends:"),
        ("\nhello\n", "x.yaml:2: is a single value, not a mapping; want keys such as backends:"),
        ("a: [\n", "x.yaml:2: is not YAML: while parsing a flow node"),
    ],
)
def test_files_that_are_no_mapping(problems: Problems, text: str, expected: str) -> None:
    """There is nothing more to say about them."""
    (told,) = problems(text)
    assert told.startswith(expected)


def test_all_problems_are_told_at_once(problems: Problems) -> None:
    """Those of the syntax tree, of types, of files, of names and of what fits together."""
    text = """\
server:
  listen: localhost
  workers: 0
backends:
  - name: one
    url: ftp://example
    weight: heavy
    colour: red
  - name: one
    url: "demo:"
    api_key_file: /run/none
auth:
  skip_paths: [/v1/models]
  pipeline:
    - name: static
      type: static
      static:
        keys:
          - key: ${NONE}
          - key: short
health_check:
  path: health
rate_limit: {storage: redis, redis: primary}
storage: {caches: [{name: secondary, addr: nowhere}]}
admin: {enabled: true, token: changeme}
hooks: {}
"""
    assert [told.split(": ")[:2] for told in problems(text)] == [
        ["x.yaml:2", "server.listen"],
        ["x.yaml:3", "server.workers"],
        ["x.yaml:6", "backends[0].url"],
        ["x.yaml:7", "backends[0].weight"],
        ["x.yaml:8", "backends[0].colour"],
        ["x.yaml:9", "backends[1].name"],
        ["x.yaml:11", "backends[1].api_key_file"],
        ["x.yaml:13", "auth.skip_paths[0]"],
        ["x.yaml:19", "auth.pipeline[0].static.keys[0].key"],
        ["x.yaml:20", "auth.pipeline[0].static.keys[1].key"],
        ["x.yaml:22", "health_check.path"],
        ["x.yaml:23", "rate_limit.redis"],
        ["x.yaml:24", "storage.caches[0].addr"],
        ["x.yaml:25", "admin.token"],
        ["x.yaml:25", "admin.enabled"],
        ["x.yaml:26", "hooks"],
    ]


def test_the_environment_fills_any_value(load: Load) -> None:
    """Texts, numbers, truth values, durations and lists' items; secrets above all."""
    text = (
        GOOD.replace("sk-123456", "${KEY}")
        .replace(
            "weight: 2", "weight: ${WEIGHT:-3}\n    inject_usage: ${INJECT}\n    timeout: ${T}"
        )
        .replace("127.0.0.1:8001", "${HOST}:${PORT:-8001}")
    )
    environ = {"KEY": "12345678", "INJECT": "false", "T": "5m", "HOST": "gpu-1"}
    config = load(text, environ)
    backend = config.backends[0]
    assert config.auth.pipeline[0].static.keys[0].key == "12345678"
    assert (backend.weight, backend.inject_usage, backend.timeout) == (3, False, Duration(300))
    assert backend.url == "http://gpu-1:8001"
    assert type(backend.url) is str


def test_aliases_and_merges_carry_their_problems(problems: Problems) -> None:
    """Each place is told, with the line where the value really stands."""
    text = (
        "backends:\n"
        "  - &base {name: a, url: 'demo:', weight: x}\n"
        "  - <<: *base\n"
        "    name: b\n"
        "auth: {enabled: false}\n"
    )
    assert [told.partition(": ")[0] for told in problems(text)] == ["x.yaml:2", "x.yaml:2"]


def test_load_config_reads_real_files(tmp_path: Path) -> None:
    """With a byte order mark, secrets in files and logs in directories that are there."""
    (tmp_path / "key").write_text("sk-from-file\n")
    text = GOOD.replace("key: sk-123456", f"key_file: {tmp_path}/key")
    text += f"log: {{output: file, file: {{path: {tmp_path}/x.log}}}}\n"
    file = tmp_path / "x.yaml"
    file.write_text(text, "utf-8-sig")
    config = load_config(str(file), {})
    assert config.auth.pipeline[0].static.keys[0].key == "sk-from-file"
    file.write_text(text.replace("/x.log", "/none/x.log"))
    with pytest.raises(ConfigError, match="directory that does not exist") as caught:
        load_config(str(file), {})
    assert [problem.file for problem in caught.value.problems] == [str(file)]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (None, 0, "does not exist; want a YAML file"),
        (b"a: 1\nb: \xff\n", 2, "is not UTF-8 text"),
        (b"", 0, "is empty; want at least backends:"),
        (b"a: b: c\n", 1, "is not YAML: mapping values are not allowed here (column 5)"),
    ],
)
def test_files_that_cannot_be_loaded(
    tmp_path: Path, content: bytes | None, line: int, words: str
) -> None:
    """The file itself is the problem."""
    file = tmp_path / "x.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), {})
    (problem,) = caught.value.problems
    assert (problem.path, problem.line, problem.message) == ("", line, words)
    assert str(problem).startswith(f"{file}:{line}: " if line else f"{file}: ")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """Nor is a name that no file can have, nor one below a file."""
    (tmp_path / "x").touch()
    for path, words in (
        (str(tmp_path), "is a directory"),
        ("a\0b", "is not the name of a file"),
        (str(tmp_path / "x" / "y"), "cannot be read: Not a directory"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(path, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """The system's reason is told."""
    file = tmp_path / "x.yaml"
    file.touch(mode=0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load_config(str(file), {})


TLS = """\
server: {{tls: {{enabled: true, cert_file: {cert}, key_file: {key}}}}}
backends: [{{name: a, url: "demo:"}}]
auth: {{enabled: false}}
"""


def tls_problems(folder: Path, cert: str, key: str, more: str = "") -> list[str]:
    """Tell the problems of a file with TLS on the listeners."""
    file = folder / "x.yaml"
    file.write_text(TLS.format(cert=cert, key=f"{key}{more}"))
    try:
        load_config(str(file), {})
    except ConfigError as error:
        return [f"{one.line}: {one.path}: {one.message}" for one in error.problems]
    return []


def test_a_good_certificate(tmp_path: Path) -> None:
    """Alone, and with what lies between it and its authority."""
    authority = Authority(tmp_path, "authority")
    between = Authority(tmp_path, "between", issuer=authority)
    cert, key = between.issue("gateway.test")
    assert not tls_problems(tmp_path, cert, key)
    chain = tmp_path / "chain"
    chain.write_bytes(b"the gateway:\n" + Path(cert).read_bytes() + between.pem)
    assert not tls_problems(tmp_path, str(chain), key)


def test_the_cas_of_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One or several, and nothing else."""
    monkeypatch.chdir(tmp_path)
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    pair = authority.issue("gateway.test")

    def told(content: bytes) -> list[str]:
        Path("ca").write_bytes(content)
        return tls_problems(tmp_path, *pair, ", client_auth: require, client_ca_file: ca")

    at = '1: server.tls.client_ca_file: "ca" '
    assert not told(authority.pem)
    assert not told(b"two of them:\n" + authority.pem + other.pem)
    assert told(b"") == [at + "holds no certificate; want those of CAs in PEM"]
    assert told(authority.pem.replace(b"M", b"?")) == [
        at + "is damaged; want certificates of CAs in PEM"
    ]


def test_certificates_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault is told once, at the key of the file that has it, in words."""
    monkeypatch.chdir(tmp_path)
    authority = Authority(tmp_path, "authority")
    cert, key = authority.issue("gateway.test")
    good_cert, good_key = Path(cert).read_text(), Path(key).read_text()
    other_key = authority.issue("gateway.test")[1]
    loaded = serialization.load_pem_private_key(good_key.encode(), None)
    locked = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    ).decode()
    locked_otherwise = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"sesame"),
    ).decode()
    weak_cert, weak_key = weak_pair()

    def told(cert_pem: str, key_pem: str) -> str:
        Path("c").write_text(cert_pem)
        Path("k").write_text(key_pem)
        (problem,) = tls_problems(tmp_path, "c", "k")
        return problem

    at_cert, at_key = '1: server.tls.cert_file: "c" ', '1: server.tls.key_file: "k" '
    assert told("", good_key) == at_cert + "holds no certificate; want it in PEM"
    assert told(good_key, good_cert) == at_cert + "holds no certificate; want it in PEM"
    assert told(good_cert, "") == at_key + "holds no private key; want it in PEM"
    assert told(good_cert, good_cert) == at_key + "holds no private key; want it in PEM"
    for protected in (locked, locked_otherwise):
        message = told(good_cert, protected)
        assert message == at_key + "is protected by a passphrase; want it without"
    mismatch = at_key + 'does not belong to the first certificate in "c"'
    assert told(good_cert, Path(other_key).read_text()) == mismatch
    assert told(authority.pem.decode() + good_cert, good_key) == mismatch
    assert told(good_cert, weak_key) == mismatch
    for damaged in (cut_short(good_cert), good_cert + cut_short(authority.pem.decode())):
        assert told(damaged, good_key) == at_cert + "is damaged; want it in PEM"
    assert told(good_cert, cut_short(good_key)) == at_key + "is damaged; want it in PEM"
    too_weak = "cannot be used: ee key too small; want another certificate"
    assert told(weak_cert, weak_key) == at_cert + too_weak


def cut_short(pem: str) -> str:
    """Take a line out of a PEM block."""
    lines = pem.splitlines(keepends=True)
    return "".join(lines[:1] + lines[2:])


def weak_pair() -> tuple[str, str]:
    """Make a certificate and a key that are too weak for OpenSSL today."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem.decode()


def key_paths(cls: type[Any] = Config, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """List the path of every key of the model; ``-`` is the first item of a list."""
    for name, kind in get_type_hints(cls).items():
        yield (*above, name)
        item = next(iter(get_args(kind)), None)
        if attrs.has(kind):
            yield from key_paths(kind, (*above, name))
        elif item is not None and attrs.has(item):
            yield (*above, name, "-")
            yield from key_paths(item, (*above, name, "-"))


REQUIRED = {
    "backends": "name: a, url: 'demo:', ",
    "models": "id: m, ",
    "pipeline": "name: s, type: static, ",
}
BASE = {
    "backends": "[{name: a, url: 'demo:'}]",
    "auth": "{enabled: false}",
}


def document(path: tuple[str, ...], value: str) -> str:
    """Write a file that is good but for one value."""
    for position in range(len(path) - 1, 0, -1):
        step, listed = path[position], path[position - 2] if position > 1 else ""
        if step == "-":
            value = f"[{value}]"
        elif path[position - 1] == "-" and f"{step}: " not in REQUIRED.get(listed, ""):
            value = f"{{{REQUIRED.get(listed, '')}{step}: {value}}}"
        else:
            value = f"{{{step}: {value}}}"
    return "".join(f"{key}: {text}\n" for key, text in {**BASE, path[0]: value}.items())


NUMBERS = ["~", "yes", "off", "0", "-1", "0x10", "1.5", ".inf", ".nan", "1e400", "5m", "64MiB"]
TEXTS = ["x", "static", "file", "/", "demo:", "http://[", "':1'", "10.0.0.1/8", "2030-01-01"]
REFERENCES = ["'${A}'", "'${'", "'$${x}'", "'x ${A:-y}'"]
VALUES = st.one_of(
    st.sampled_from(NUMBERS + TEXTS + REFERENCES),
    st.sampled_from(["", "{x: y}", "{1: 2}", "{<<: {}}", "&a [*a]", "!!int x", "!x y"]),
    st.sampled_from(["[]", "{}", "[x]", "[[]]", "[~]", "[{}]", "*a", '"\\0"', '"\\ud800"']),
    st.just("9" * 400),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=12).map(json.dumps),
    st.text(max_size=12),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(key_paths())), VALUES, st.sampled_from(["", "1", "true", "x y", "5m"]))
def test_any_value_in_any_place_is_taken_or_told(
    path: tuple[str, ...], value: str, variable: str
) -> None:
    """The loader gives a configuration or says why not; it never breaks."""
    missing = FileNotFoundError(2, "No such file or directory")

    def read_file(_: str) -> str:
        raise missing

    config = None
    told: tuple[object, ...] = ()
    try:
        config = parse_config(document(path, value), {"A": variable}, read_file=read_file)
    except ConfigError as error:
        told = error.problems
        str(error).encode()
    assert isinstance(config, Config) is not bool(told)
    assert len({str(problem) for problem in told}) == len(told)
