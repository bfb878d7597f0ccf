"""How a command can fail, and the exit status of each: 0 is for what went well.

Status 2, a command that was used wrongly, is `click.UsageError`. Messages come in part from the
other side: what a terminal would obey is taken out of them. None ever holds a key or a token.
"""

from __future__ import annotations

import click

from llmproxy.commands.table import printable


class Refused(click.ClickException):
    """The admin API said no; its own words are the message.

    Attributes:
        code: As in the API's answer, such as ``not_found``; empty when it was found here.
    """

    exit_code = 1

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(printable(message))
        self.code = code


class Unreachable(click.ClickException):
    """There is no admin API to talk to, or something else answers in its place."""

    exit_code = 3

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
