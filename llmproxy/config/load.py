"""Loads a configuration: from text or from a file to the model, or to every problem at once.

`parse_config` is pure; the environment and the reading of other files are handed to it.
`load_config` is the one thin place of this room that opens files. Relative paths are those of the
process: they start from its working directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from llmproxy.config.checks import check
from llmproxy.config.files import ReadFile, check_certificates, check_logs, read_secrets
from llmproxy.config.findings import Findings
from llmproxy.config.keys import check_keys
from llmproxy.config.model import Config
from llmproxy.config.structure import structure
from llmproxy.config.yaml_lines import BROKEN, read_tree
from llmproxy.errors import ConfigError, Problem


def load_config(path: str, environ: Mapping[str, str]) -> Config:
    """Load a configuration file.

    Args:
        path: The file.
        environ: What ``${NAME}`` refers to.

    Raises:
        ConfigError: It cannot be read or used; with every problem found.
    """

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
    return parse_config(text, environ, file=path, read_file=_read_file, is_directory=_is_directory)


def parse_config(
    text: str,
    environ: Mapping[str, str],
    *,
    file: str = "<text>",
    read_file: ReadFile,
    is_directory: Callable[[str], bool] = lambda _: True,
) -> Config:
    """Make the configuration of a YAML text.

    Args:
        text: The text.
        environ: What ``${NAME}`` refers to.
        file: What to call it in problems.
        read_file: Gives the text of a file that the configuration names; raises `OSError`, or
            `UnicodeDecodeError` when it is not UTF-8.
        is_directory: Says whether a path is a directory that exists; asked only for those that
            log files are in.

    Raises:
        ConfigError: It cannot be used; with every problem found.
    """
    findings = Findings(file)
    tree = read_tree(text, environ, findings)
    if tree is BROKEN:
        raise findings.error()
    if not isinstance(tree, dict):
        what = "a list" if isinstance(tree, list) else "a single value"
        findings.add((), f"is {what}, not a mapping; want keys such as backends:")
        raise findings.error()
    config = read_secrets(structure(tree, findings), read_file, findings)
    check(config, findings)
    check_keys(config, findings)
    check_certificates(config, read_file, findings)
    check_logs(config, is_directory, findings)
    if findings:
        raise findings.error()
    return config


def _read_file(path: str) -> str:
    return Path(path).read_text("utf-8")


def _is_directory(path: str) -> bool:
    return Path(path).is_dir()
