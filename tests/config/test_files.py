"""Tests of `llmproxy.config.files`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from llmproxy.config.files import read_secrets
from llmproxy.config.findings import Findings
from llmproxy.config.model_stores import Cache
from llmproxy.config.setting import setting
from tests.config.conftest import Load, Problems

PLAIN = "backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false}\n"
KEY = """\
backends:
  - {name: a, url: "https://h", api_key_file: up}
auth:
  pipeline:
    - name: s
      type: static
      static:
        keys:
          - key_file: /run/key
          - {key: sk-other}
"""
NOT_UTF8 = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def test_secrets_are_read_from_files_without_their_last_newline(load: Load) -> None:
    """Editors and ``echo`` add one."""
    config = load(KEY, files={"up": "sk-upstream\r\n", "/run/key": "sk-client\n"})
    assert config.backends[0].api_key == "sk-upstream"
    assert [one.key for one in config.auth.pipeline[0].static.keys] == ["sk-client", "sk-other"]


def test_every_secret_can_stand_in_a_file(load: Load) -> None:
    """Those of databases, caches and the admin API as those of keys."""
    text = PLAIN + (
        "storage:\n"
        "  databases:\n"
        "    - {name: a, driver: postgres, dsn_file: f1}\n"
        "    - {name: b, driver: mysql, database: d, password_file: f2}\n"
        "  caches: [{name: c, password_file: f3}]\n"
        "admin: {token_file: f4, key_secret_file: f5}\n"
    )
    secrets = {
        "f1": "dbname=s1",
        "f2": "s2",
        "f3": "s3",
        "f4": "k7Qz9!mB2w#L5vX8",
        "f5": "0a1b2c3d4e5f6071",
    }
    config = load(text, files={name: f"{secret}\n" for name, secret in secrets.items()})
    one, two = config.storage.databases
    (cache,), admin = config.storage.caches, config.admin
    found = [one.dsn, two.password, cache.password, admin.token, admin.key_secret]
    assert found == list(secrets.values())


def test_sections_by_name_are_looked_through() -> None:
    """A secret in one of them would be read, and told at its place, under the names of YAML."""

    @attrs.frozen(kw_only=True)
    class Odd:
        """A section with sections by name."""

        import_: Mapping[str, Cache] = setting("by name", factory=dict, key="import")

    findings = Findings("")
    odd: Any = Odd(import_={"a": Cache(name="a", password_file="f"), "b": Cache(name="b")})
    read: Any = read_secrets(odd, {"f": "s3cret\n"}.__getitem__, findings)
    assert read.import_["a"].password == "s3cret"
    assert read.import_["b"] is odd.import_["b"]
    assert not findings

    def unreadable(path: str) -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file", path)

    read_secrets(odd, unreadable, findings)
    (problem,) = findings.error().problems
    assert problem.path == "import.a.password_file"
    plain: Any = Odd(import_={"b": Cache(name="b")})
    assert read_secrets(plain, unreadable, findings) is plain


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file or directory; want it to hold the secret"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read: Permission denied"),
        (NOT_UTF8, "is not UTF-8 text"),
        (ValueError("embedded null byte"), "is not the name of a file"),
        ("", "is empty"),
        ("\n", "is empty"),
    ],
)
def test_a_secret_that_cannot_be_read(
    problems: Problems, content: str | Exception, expected: str
) -> None:
    """Each problem is told once, with the file's name."""
    (told,) = problems(KEY, files={"up": "sk-upstream", "/run/key": content})
    assert told.startswith('x.yaml:9: auth.pipeline[0].static.keys[0].key_file: "/run/key" ')
    assert expected in told


def test_a_secret_and_its_file_cannot_both_be_given(problems: Problems) -> None:
    """Nobody could say which one counts."""
    text = PLAIN.replace("'demo:'", "'demo:', api_key: s3cret, api_key_file: up")
    (told,) = problems(text, files={"up": "x"})
    assert told == (
        "x.yaml:1: backends[0].api_key_file: is given, and so is backends[0].api_key; "
        "want one of them"
    )


def test_what_a_key_file_holds_is_checked(problems: Problems) -> None:
    """At the line of the file's name, and without the key."""
    (told,) = problems(KEY, files={"up": "sk-upstream", "/run/key": "s3 cret"})
    assert "keys[0].key_file: holds a key (hidden) with characters" in told
    (told,) = problems(KEY, files={"up": "two\nlines", "/run/key": "sk-client"})
    assert "backends[0].api_key_file: has a key (hidden) that no header can carry" in told


TLS = "backends: [{{name: a, url: 'https://h', tls: {{{}}}}}]\nauth: {{enabled: false}}\n"


def test_certificates_must_be_readable(load: Load, problems: Problems) -> None:
    """Their paths stay paths."""
    text = TLS.format("ca_file: ca.pem, cert_file: c.pem, key_file: k.pem")
    config = load(text, files={"ca.pem": "x", "c.pem": "y", "k.pem": "z"})
    assert config.backends[0].tls.key_file == "k.pem"
    told = problems(text, files={"c.pem": "y"})
    assert told == [
        'x.yaml:1: backends[0].tls.ca_file: "ca.pem" cannot be read: No such file or directory; '
        "want a readable PEM file",
        'x.yaml:1: backends[0].tls.key_file: "k.pem" cannot be read: No such file or directory; '
        "want a readable PEM file",
    ]


def test_a_client_key_needs_its_certificate(load: Load, problems: Problems) -> None:
    """A certificate alone may hold its key."""
    files = {"c.pem": "y", "k.pem": "z"}
    assert load(TLS.format("cert_file: c.pem"), files=files)
    (told,) = problems(TLS.format("key_file: k.pem"), files=files)
    assert told == "x.yaml:1: backends[0].tls.key_file: is given without cert_file; want both"


@pytest.mark.parametrize(
    ("given", "wanted"), [("cert_file", "key_file"), ("key_file", "cert_file")]
)
def test_certificate_and_key_of_the_server_belong_together(
    problems: Problems, given: str, wanted: str
) -> None:
    """One without the other is a problem."""
    (told,) = problems(f"{PLAIN}server: {{tls: {{{given}: c.pem}}}}\n", files={"c.pem": "x"})
    assert told == f"x.yaml:3: server.tls.{given}: is given without {wanted}; want both"


SERVER_TLS = PLAIN + "server: {tls: {enabled: true, cert_file: c.pem, key_file: k.pem}}\n"


def test_tls_needs_a_certificate(load: Load, problems: Problems) -> None:
    """Both files, and nobody can go without."""
    (told,) = problems(PLAIN + "server: {tls: {enabled: true}}\n")
    assert told == "x.yaml:3: server.tls.enabled: is true; want cert_file and key_file with it"
    config = load(SERVER_TLS, files={"c.pem": "x", "k.pem": "y"})
    assert (config.server.tls.cert_file, config.server.tls.key_file) == ("c.pem", "k.pem")
    assert config.server.tls.min_version == "1.2"


def test_tls_that_cannot_be_used(load: Load, problems: Problems) -> None:
    """What is wrong with a file is told at its key; not with TLS off, nor beside other faults."""
    fault = ("key_file", "is damaged; want it in PEM")
    files = {"c.pem": "x", "k.pem": "y"}
    (told,) = problems(SERVER_TLS, files=files, tls_fault=fault)
    assert told == 'x.yaml:3: server.tls.key_file: "k.pem" is damaged; want it in PEM'
    assert load(SERVER_TLS.replace("true", "false"), files=files, tls_fault=fault)
    (told,) = problems(SERVER_TLS, files={"k.pem": "y"}, tls_fault=fault)
    assert 'server.tls.cert_file: "c.pem" cannot be read' in told


FURTHER = SERVER_TLS.replace(
    "k.pem}", "k.pem, certificates: [{server_names: [a.org], cert_file: d.pem, key_file: l.pem}]}"
)


def test_every_certificate_is_looked_into(problems: Problems) -> None:
    """Those that are chosen by name, too; what is wrong is told at its own place."""
    files = {"c.pem": "x", "k.pem": "y", "d.pem": "z", "l.pem": "z"}
    assert not problems(FURTHER, files=files)
    told = problems(FURTHER, files={"c.pem": "x", "k.pem": "y", "l.pem": "z"})
    assert told == [
        'x.yaml:3: server.tls.certificates[0].cert_file: "d.pem" cannot be read: '
        "No such file or directory; want a readable PEM file"
    ]
    told = problems(FURTHER, files=files, tls_fault=("key_file", "is damaged; want it in PEM"))
    assert [one.partition(": ")[2] for one in told] == [
        'server.tls.key_file: "k.pem" is damaged; want it in PEM',
        'server.tls.certificates[0].key_file: "l.pem" is damaged; want it in PEM',
    ]
    (one,) = problems(FURTHER.replace(", key_file: l.pem", ""), files=files)
    assert one.endswith("certificates[0].cert_file: is given without key_file; want both")
    (one,) = problems(FURTHER.replace("cert_file: d.pem, key_file: l.pem", ""), files=files)
    assert one.endswith("certificates[0]: has no files; want cert_file and key_file with it")


def test_the_cas_of_clients(problems: Problems) -> None:
    """Their file must be there, and hold what can be used."""
    text = SERVER_TLS.replace("k.pem}", "k.pem, client_auth: request, client_ca_file: ca.pem}")
    files = {"c.pem": "x", "k.pem": "y"}
    (told,) = problems(text, files=files)
    assert 'server.tls.client_ca_file: "ca.pem" cannot be read' in told
    files["ca.pem"] = "z"
    assert not problems(text, files=files)
    (told,) = problems(text, files=files, ca_fault="is damaged; want it")
    assert told == 'x.yaml:3: server.tls.client_ca_file: "ca.pem" is damaged; want it'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log: {output: file}", "log.output: is file; want log.file.path with it"),
        (
            "log: {output: file, file: {path: /no/x.log}}",
            'log.file.path: "/no/x.log" is in a directory that does not exist',
        ),
        ("log: {output: file, file: {path: /yes}}", 'log.file.path: "/yes" is a directory'),
        (
            "logging: {access: {output: file}}",
            "logging.access.output: is file; want logging.access.path with it",
        ),
        (
            "logging: {access: {output: file, path: no/x.log}}",
            'logging.access.path: "no/x.log" is in a directory that does not exist',
        ),
        (
            "logging: {access: {output: file, path: x.log}}\n"
            "log: {output: file, file: {path: x.log, keep: 2}}",
            'logging.access.path: "x.log" is log.file.path as well, with another max_size or keep',
        ),
    ],
)
def test_places_of_logs(problems: Problems, text: str, expected: str) -> None:
    """A log that goes to a file needs one, in a directory that is there."""
    (told,) = problems(PLAIN + text, directories=(".", "/", "/yes"))
    assert told.startswith(f"x.yaml:3: {expected}")


@pytest.mark.parametrize(
    "text",
    [
        "log: {output: file, file: {path: x.log}}",
        "log: {output: file, file: {path: /yes/x.log}}",
        "logging: {access: {output: file, path: x.log}}\nlog: {output: file, file: {path: x.log}}",
        "log: {file: {path: /no/x.log}}",
        "logging: {access: {enabled: false, output: file}}",
    ],
)
def test_places_that_are_good_or_not_used(problems: Problems, text: str) -> None:
    """A path that nothing is written to is not looked at."""
    assert not problems(PLAIN + text, directories=(".", "/yes"))


BUILTIN = "backends: [{name: a, url: 'demo:'}]\nauth: {pipeline: [{name: l, type: builtin}]}\n"


@pytest.mark.parametrize(
    ("db_path", "expected"),
    [
        ("''", "is empty; want the name of a file"),
        ("':memory:'", '":memory:" would forget keys and budgets; want the name of a file'),
        ("/yes", '"/yes" is a directory; want a file'),
        ("/yes/", '"/yes/" is a directory; want a file'),
        ("/no/deep/x.db", '"/no/deep/x.db" is in a directory that does not exist, nor does the'),
        ("no/deep/x.db", '"no/deep/x.db" is in a directory that does not exist, nor does the'),
    ],
)
def test_places_of_the_key_store(problems: Problems, db_path: str, expected: str) -> None:
    """A file, whose directory can be made if need be."""
    (told,) = problems(f"{BUILTIN}admin: {{db_path: {db_path}}}\n", directories=(".", "/", "/yes"))
    assert told.startswith(f"x.yaml:3: admin.db_path: {expected}")


@pytest.mark.parametrize("db_path", ["x.db", "./data/x.db", "no/x.db", "/yes/x.db", "/yes/no/x.db"])
def test_places_that_are_good(problems: Problems, db_path: str) -> None:
    """One directory more may be made."""
    assert not problems(f"{BUILTIN}admin: {{db_path: {db_path}}}\n", directories=(".", "/yes"))


def test_a_key_store_that_nobody_needs_has_no_place(problems: Problems) -> None:
    """A directory is asked for only where something is to be kept."""
    assert not problems(PLAIN + "admin: {db_path: /no/deep/x.db}\n")
