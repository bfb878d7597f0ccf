"""``${NAME}`` and ``${NAME:-default}`` in the values of a configuration file.

As in a shell, the default also stands in for a variable that is set but empty; ``$${`` is a plain
``${``. Defaults cannot contain ``}``. It is handed the environment, and knows nothing of YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"(\$)?\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?:(:-)([^}]*))?\})?")


class FromEnvironment(str):
    """A text that came, in whole or in part, from the environment.

    The environment has only text; where a number or a truth value is wanted, this text is read as
    if it stood in the file without quotes.
    """

    __slots__ = ()


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Put the environment's values in place of the references to them.

    Args:
        text: A value of the file.
        environ: The environment.

    Returns:
        The text itself when there is no reference in it, else a `FromEnvironment`; an escaped
        ``$${`` alone does not make it one.

    Raises:
        ValueError: A variable is not set and has no default, or a reference is malformed. The
            message shows no values.
    """
    if "${" not in text:
        return text
    read = False
    missing: list[str] = []

    def value_of(found: re.Match[str]) -> str:
        nonlocal read
        escaped, name, has_default, default = found.groups()
        if escaped:
            return found[0][1:]
        if name is None:
            raise ValueError(
                'has a "${" that begins no reference; want ${NAME} or ${NAME:-default}, '
                'or "$${" for a plain "${"'
            )
        read = True
        value = environ.get(name)
        if has_default:
            return value or default
        if value is None:
            missing.append(name)
            return ""
        return value

    result = _REFERENCE.sub(value_of, text)
    if missing:
        names = ", ".join(f"${{{name}}}" for name in dict.fromkeys(missing))
        raise ValueError(
            f"{names} is not set in the environment; set it, or write ${{NAME:-default}}"
        )
    return FromEnvironment(result) if read else result
