"""Loads a configuration: from text or from a file to the model, or to every problem at once.

`parse_config` is pure; the environment and the reading of other files are handed to it.
`load_config` is the one thin place of this room that opens files. Relative paths are those of the
process: they start from its working directory.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs

from llmproxy.config.checks import check
from llmproxy.config.checks_admin import check_admin
from llmproxy.config.checks_auth import check_auth
from llmproxy.config.checks_limits import check_limits
from llmproxy.config.checks_opencode import check_opencode
from llmproxy.config.checks_restart import check_restart
from llmproxy.config.checks_storage import check_storage
from llmproxy.config.checks_tls import check_tls
from llmproxy.config.checks_usage import check_usage
from llmproxy.config.digest import digest
from llmproxy.config.files import (
    FindCaFault,
    FindTlsFault,
    ReadFile,
    check_certificates,
    check_db_path,
    check_logs,
    check_spool_dir,
    read_secrets,
)
from llmproxy.config.findings import Findings, path_text, quoted
from llmproxy.config.keys import check_keys
from llmproxy.config.model import Config
from llmproxy.config.structure import structure
from llmproxy.config.yaml_lines import BROKEN, read_tree
from llmproxy.errors import ConfigError, Problem

# OpenSSL's words for a key that is not a certificate's; the last is for one of another algorithm.
_MISMATCHES = frozenset(("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"))


_CERTIFICATE = re.compile(r"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")


@attrs.frozen
class LoadedConfig:
    """What a file says.

    Attributes:
        config: The configuration.
        file: The file's name.
        digest: The configuration's; see `llmproxy.config.digest`.
        lines: The line of each key path that stands in it, as problems name it.
    """

    config: Config
    file: str
    digest: str
    lines: Mapping[str, int] = attrs.field(repr=False)

    def located(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Say of problems that were found elsewhere where in the file their cause stands."""
        return tuple(
            attrs.evolve(problem, line=self._line(problem.path), file=self.file)
            for problem in problems
        )

    def _line(self, path: str) -> int:
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, 0)


def load_config(path: str, environ: Mapping[str, str]) -> Config:
    """Load a configuration file, and take no note of where things stand in it; see `load_file`."""
    return _load(path, environ, None)[0]


def load_file(
    path: str, environ: Mapping[str, str], in_force: Config | None = None
) -> LoadedConfig:
    """Load a configuration file.

    Args:
        path: The file.
        environ: What ``${NAME}`` refers to.
        in_force: What it is to follow in a running daemon; None: it is for a new one.

    Raises:
        ConfigError: It cannot be read or used; with every problem found.
    """
    config, findings = _load(path, environ, in_force)
    lines = {path_text(place): line for place, line in findings.lines.items()}
    return LoadedConfig(config, path, digest(config), lines)


def _load(
    path: str, environ: Mapping[str, str], in_force: Config | None
) -> tuple[Config, Findings]:
    def unreadable(reason: str, line: int = 0) -> ConfigError:
        return ConfigError((Problem(path="", message=reason, line=line, file=path),))

    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise unreadable("does not exist; want a YAML file") from None
    except IsADirectoryError:
        raise unreadable("is a directory; want a YAML file") from None
    except OSError as error:
        raise unreadable(f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise unreadable("is not the name of a file") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise unreadable("is not UTF-8 text", line) from None
    findings = Findings(path)
    config = _parse(
        text,
        environ,
        findings,
        read_file=_read_file,
        is_directory=_is_directory,
        find_tls_fault=_find_tls_fault,
        find_ca_fault=_find_ca_fault,
    )
    if in_force is not None:
        check_restart(in_force, config, findings)
    if findings:
        raise findings.error()
    return config, findings


def parse_config(
    text: str,
    environ: Mapping[str, str],
    *,
    file: str = "<text>",
    read_file: ReadFile,
    is_directory: Callable[[str], bool] = lambda _: True,
    find_tls_fault: FindTlsFault = lambda _cert_file, _key_file: None,
    find_ca_fault: FindCaFault = lambda _: None,
) -> Config:
    """Make the configuration of a YAML text.

    Args:
        text: The text.
        environ: What ``${NAME}`` refers to.
        file: What to call it in problems.
        read_file: Gives the text of a file that the configuration names; raises `OSError`, or
            `UnicodeDecodeError` when it is not UTF-8.
        is_directory: Says whether a path is a directory that exists; asked only for those that
            log files and the key store are in.
        find_tls_fault: Looks into a certificate and its key of the listeners.
        find_ca_fault: Looks into the CAs of the clients' certificates.

    Raises:
        ConfigError: It cannot be used; with every problem found.
    """
    findings = Findings(file)
    config = _parse(
        text,
        environ,
        findings,
        read_file=read_file,
        is_directory=is_directory,
        find_tls_fault=find_tls_fault,
        find_ca_fault=find_ca_fault,
    )
    if findings:
        raise findings.error()
    return config


def _parse(
    text: str,
    environ: Mapping[str, str],
    findings: Findings,
    *,
    read_file: ReadFile,
    is_directory: Callable[[str], bool],
    find_tls_fault: FindTlsFault,
    find_ca_fault: FindCaFault,
) -> Config:
    """Make the configuration of a text, with stand-ins where there are findings.

    Raises:
        ConfigError: There is nothing in it that could be one.
    """
    tree = read_tree(text, environ, findings)
    if tree is BROKEN:
        raise findings.error()
    if not isinstance(tree, dict):
        what = "a list" if isinstance(tree, list) else "a single value"
        findings.add((), f"is {what}, not a mapping; want keys such as backends:")
        raise findings.error()
    config = read_secrets(structure(tree, findings), read_file, findings)
    check(config, findings)
    check_auth(config, findings)
    check_keys(config, findings)
    check_limits(config, findings)
    check_storage(config, findings)
    check_admin(config, findings)
    check_usage(config, findings)
    check_tls(config, findings)
    check_opencode(config, findings)
    check_certificates(config, read_file, find_tls_fault, find_ca_fault, findings)
    check_logs(config, is_directory, findings)
    check_db_path(config, is_directory, findings)
    check_spool_dir(config, is_directory, findings)
    return config


def _read_file(path: str) -> str:
    return Path(path).read_text("utf-8")


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)  # where Path.is_dir raises for some names, this says no


def _find_tls_fault(cert_file: str, key_file: str) -> tuple[str, str] | None:
    """Look into a certificate's file and its key's; see `FindTlsFault`."""
    certificate, key = _read_file(cert_file), _read_file(key_file)
    if not _CERTIFICATE.search(certificate):
        return "cert_file", "holds no certificate; want it in PEM"
    if not re.search("-----BEGIN [A-Z ]*PRIVATE KEY-----", key):
        return "key_file", "holds no private key; want it in PEM"
    if "ENCRYPTED" in key:
        return "key_file", "is protected by a passphrase; want it without"
    try:
        # OpenSSL would ask at the terminal for a passphrase that is not given.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password="")
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            return "key_file", f"does not belong to the first certificate in {quoted(cert_file)}"
        if error.reason:  # such as EE_KEY_TOO_SMALL; what is damaged has none
            reason = error.reason.replace("_", " ").lower()
            return "cert_file", f"cannot be used: {reason}; want another certificate"
        name = "key_file" if _is_sound(certificate) else "cert_file"
        return name, "is damaged; want it in PEM"
    return None


def _find_ca_fault(file: str) -> str | None:
    """Look into a file of CAs' certificates; see `FindCaFault`."""
    certificates = _read_file(file)
    if not _CERTIFICATE.search(certificates):
        return "holds no certificate; want those of CAs in PEM"
    return None if _is_sound(certificates) else "is damaged; want certificates of CAs in PEM"


def _is_sound(certificate: str) -> bool:
    """Say whether every certificate of a text can be read."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError):
        return False
    return True
