"""Reading what a person named at the command line: a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

import click


def read_text(file: str, *, called: str = "", stdin: bool = True) -> str:
    """Read a file.

    Args:
        file: Its path.
        called: What to call it in messages, before its path: the option that named it.
        stdin: Whether ``-`` is standard input.

    Raises:
        click.UsageError: It cannot be read; shows nothing of what is in it.
    """
    shown = f"{called} {file}".lstrip()
    try:
        if stdin and file == "-":
            return sys.stdin.read().removeprefix("\ufeff")
        return Path(file).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{shown} is not UTF-8 text") from None
    except OSError as error:
        raise click.UsageError(f"{shown} cannot be read: {error.strerror}") from None
    except ValueError:
        raise click.UsageError(f"{shown} is not the name of a file") from None
