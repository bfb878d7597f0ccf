"""What a configuration keeps in other files: secrets, certificates, logs, and the key store.

``NAME_file`` beside a secret ``NAME`` is read into it; the paths of certificates stay paths, but
must be readable. What opens files is handed in as callables: nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os.path import dirname
from typing import Any

import attrs

from llmproxy.config.checks_admin import needs_db
from llmproxy.config.findings import Findings, KeyPath, path_text, quoted
from llmproxy.config.model import BackendTls, Config, ServerTls, TlsCertificate
from llmproxy.config.setting import key_name

ReadFile = Callable[[str], str]
"""Gives a file's text, or raises `OSError` or `ValueError` (it is not UTF-8)."""

FindCaFault = Callable[[str], str | None]
"""Looks at a readable file of CAs' certificates, and says why it cannot be used."""

FindTlsFault = Callable[[str, str], tuple[str, str] | None]
"""Looks at a certificate's file and its key's, both readable; names the key (``cert_file`` or
``key_file``) of the one that cannot be used, and says why."""


def read_secrets(config: Config, read_file: ReadFile, findings: Findings) -> Config:
    """Read every ``NAME_file`` into the secret ``NAME`` beside it.

    Args:
        config: The configuration.
        read_file: Reads a file.
        findings: Takes the problems.

    Returns:
        The configuration with its secrets; an empty one where there was a problem.
    """
    result: Config = _read_within(config, (), read_file, findings)
    return result


def _read_within(value: Any, path: KeyPath, read_file: ReadFile, findings: Findings) -> Any:
    if isinstance(value, tuple):
        items = [
            _read_within(item, (*path, index), read_file, findings)
            for index, item in enumerate(value)
        ]
        unchanged = all(new is old for new, old in zip(items, value, strict=True))
        return value if unchanged else tuple(items)
    if isinstance(value, Mapping):
        entries = {
            name: _read_within(item, (*path, name), read_file, findings)
            for name, item in value.items()
        }
        unchanged = all(entries[name] is old for name, old in value.items())
        return value if unchanged else entries
    if not attrs.has(type(value)):
        return value
    changes: dict[str, Any] = {}
    fields = attrs.fields_dict(type(value))
    for name, field in fields.items():
        old = getattr(value, name)
        if field.metadata.get("secret") and f"{name}_file" in fields:
            new = _secret(value, name, path, read_file, findings)
        else:
            new = _read_within(old, (*path, key_name(field)), read_file, findings)
        if new is not old:
            changes[name] = new
    return attrs.evolve(value, **changes) if changes else value


def _secret(section: Any, name: str, path: KeyPath, read_file: ReadFile, findings: Findings) -> str:
    """Give one secret, from its key or from its file."""
    given: str = getattr(section, name)
    file = getattr(section, f"{name}_file")
    at = (*path, f"{name}_file")
    if not file or findings.suspect(at):
        return given
    if given:
        findings.add(at, f"is given, and so is {path_text((*path, name))}; want one of them")
        return given
    content = _read(file, at, "it to hold the secret", read_file, findings)
    if content is None:
        return ""
    content = content.rstrip("\r\n")
    if not content:
        findings.add(at, f"{quoted(file)} is empty; want it to hold the secret")
    return content


def _read(
    file: str, path: KeyPath, wanted: str, read_file: ReadFile, findings: Findings
) -> str | None:
    """Read a file; None, and a problem, when that cannot be done."""
    try:
        return read_file(file)
    except UnicodeDecodeError:
        reason = "is not UTF-8 text"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or 'unknown error'}"
    except ValueError:
        reason = "is not the name of a file"
    findings.add(path, f"{quoted(file)} {reason}; want {wanted}")
    return None


def check_certificates(
    config: Config,
    read_file: ReadFile,
    find_tls_fault: FindTlsFault,
    find_ca_fault: FindCaFault,
    findings: Findings,
) -> None:
    """Check that certificates and keys can be read, and that what belongs together is given.

    Args:
        config: The configuration.
        read_file: Reads a file.
        find_tls_fault: Looks into a certificate of the listeners and its key.
        find_ca_fault: Looks into the CAs of the clients' certificates.
        findings: Takes the problems.
    """
    tls = config.server.tls
    at: KeyPath = ("server", "tls")
    _check_pair(tls, at, tls.enabled, read_file, find_tls_fault, findings)
    for index, pair in enumerate(tls.certificates):
        path: KeyPath = (*at, "certificates", index)
        _check_pair(pair, path, tls.enabled, read_file, find_tls_fault, findings)
    ca_at = (*at, "client_ca_file")
    if tls.enabled and tls.client_ca_file and not findings.suspect(ca_at):
        reason = find_ca_fault(tls.client_ca_file)
        if reason is not None:
            findings.check(ca_at, f"{quoted(tls.client_ca_file)} {reason}")
    for index, backend in enumerate(config.backends):
        at = ("backends", index, "tls")
        _check_readable(backend.tls, at, read_file, findings)
        if backend.tls.key_file and not backend.tls.cert_file:
            findings.check(
                (*at, "key_file"),
                "is given without cert_file; want both",
                needs=((*at, "cert_file"),),
            )


def _check_pair(
    pair: ServerTls | TlsCertificate,
    at: KeyPath,
    is_used: bool,
    read_file: ReadFile,
    find_tls_fault: FindTlsFault,
    findings: Findings,
) -> None:
    """Check a certificate of the listeners and its key."""
    both = ((*at, "cert_file"), (*at, "key_file"))
    _check_readable(pair, at, read_file, findings)
    if bool(pair.cert_file) != bool(pair.key_file):
        given, wanted = ("cert_file", "key_file") if pair.cert_file else ("key_file", "cert_file")
        findings.check(
            (*at, given), f"is given without {wanted}; want both", needs=((*at, wanted),)
        )
    elif is_used and not pair.cert_file:
        if isinstance(pair, ServerTls):
            at, what = (*at, "enabled"), "is true"
        else:
            what = "has no files"
        findings.check(at, f"{what}; want cert_file and key_file with it", needs=both)
    elif is_used and not any(map(findings.suspect, both)):
        fault = find_tls_fault(pair.cert_file, pair.key_file)
        if fault is not None:
            name, reason = fault
            findings.check((*at, name), f"{quoted(getattr(pair, name))} {reason}")


def _check_readable(
    tls: ServerTls | TlsCertificate | BackendTls,
    path: KeyPath,
    read_file: ReadFile,
    findings: Findings,
) -> None:
    for name in ("ca_file", "client_ca_file", "cert_file", "key_file"):
        file = getattr(tls, name, "")
        if file and not findings.suspect((*path, name)):
            _read(file, (*path, name), "a readable PEM file", read_file, findings)


def check_logs(config: Config, is_directory: Callable[[str], bool], findings: Findings) -> None:
    """Check that logs that go to a file name one, in a directory that exists."""
    access = config.logging.access
    if config.log.output == "file":
        _check_place(
            ("log", "output"), ("log", "file", "path"), config.log.file.path, is_directory, findings
        )
    if access.enabled and access.output == "file":
        at = ("logging", "access")
        _check_place((*at, "output"), (*at, "path"), access.path, is_directory, findings)
        file = config.log.file
        if (
            config.log.output == "file"
            and file.path == access.path
            and (file.max_size, file.keep) != (access.max_size, access.keep)
        ):
            findings.check(
                (*at, "path"),
                f"{quoted(access.path)} is log.file.path as well, with another max_size or keep; "
                "want the same there, or a file of its own",
                needs=(("log", "file"), at),
            )


def check_db_path(config: Config, is_directory: Callable[[str], bool], findings: Findings) -> None:
    """Check that keys and budgets are kept in a file, in a directory that is there or can be."""
    if not needs_db(config):
        return
    at: KeyPath = ("admin", "db_path")
    file = config.admin.db_path
    folder = dirname(file) or "."
    if not file:
        findings.check(at, "is empty; want the name of a file")
    elif file == ":memory:":
        findings.check(at, '":memory:" would forget keys and budgets; want the name of a file')
    elif file.endswith("/") or is_directory(file):
        findings.check(at, f"{quoted(file)} is a directory; want a file")
    elif not is_directory(folder) and not is_directory(dirname(folder) or "."):
        findings.check(
            at, f"{quoted(file)} is in a directory that does not exist, nor does the one above"
        )


def check_spool_dir(
    config: Config, is_directory: Callable[[str], bool], findings: Findings
) -> None:
    """Check that the spool's directory is there, or can be made in one that is."""
    folder = config.usage.spool_dir.rstrip("/")
    if not (config.usage.enabled and config.usage.reporters and folder):
        return
    above = dirname(folder) or "."
    if not any(map(is_directory, (folder, above, dirname(above) or "."))):
        findings.check(
            ("usage", "spool_dir"),
            f"{quoted(folder)} is in a directory that does not exist, nor does the one above",
        )


def _check_place(
    output: KeyPath,
    path: KeyPath,
    file: str,
    is_directory: Callable[[str], bool],
    findings: Findings,
) -> None:
    if not file:
        findings.check(output, f"is file; want {path_text(path)} with it", needs=(path,))
    elif not is_directory(dirname(file) or "."):
        findings.check(path, f"{quoted(file)} is in a directory that does not exist")
    elif is_directory(file):
        findings.check(path, f"{quoted(file)} is a directory; want a file")
