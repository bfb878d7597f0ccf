"""Groups of commands that do something without one: ``backends --json`` is ``backends list``."""

from __future__ import annotations

from typing import Any

import click


class WithDefault(click.Group):
    """A group with a command that is meant when none is named.

    Args:
        default: Its name.
    """

    def __init__(self, *args: Any, default: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command there if it is missing."""
        asks_for_help = any(one in ctx.help_option_names for one in args[:1])
        if not args or (args[0].startswith("-") and not asks_for_help):
            args = [self._default, *args]
        return super().parse_args(ctx, args)
