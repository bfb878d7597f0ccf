"""What no single value of ``admin`` shows: that its token is one, and its keys open something.

No message shows a secret. Where its file is to be is looked at in `llmproxy.config.files`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from llmproxy.config.addresses import parse_listen
from llmproxy.config.admin_token import SHORTEST_SECRET, token_fault
from llmproxy.config.findings import Findings, KeyPath, quoted
from llmproxy.config.keys import static_keys
from llmproxy.config.model import Config
from llmproxy.config.model_stores import Admin


def needs_db(config: Config) -> bool:
    """Say whether something of this configuration is kept in ``admin.db_path``.

    Keys are, records of usage, and what is used of quotas that are not counted in Redis.
    """
    usage = config.usage
    if usage.enabled and any(one.type == "builtin" for one in usage.reporters):
        return True
    types = {provider.type for provider in config.auth.pipeline}
    if config.admin.enabled or "builtin" in types:
        return True
    return config.rate_limit.storage == "memory" and (
        not types <= {"static", "builtin"}
        or any(key.total_quota is not None for _, key in static_keys(config))
    )


def check_admin(config: Config, findings: Findings) -> None:
    """Check the token, the address, and that the keys made there are asked for.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    admin, auth = config.admin, config.auth
    _check_secrets(admin, findings)
    _check_listen(config, findings)
    at: KeyPath = ("auth", "pipeline")
    types: list[KeyPath] = [(*at, index, "type") for index in range(len(auth.pipeline))]
    no_builtin = not any(provider.type == "builtin" for provider in auth.pipeline)
    if admin.enabled and auth.enabled and no_builtin:
        findings.check(
            ("admin", "enabled"),
            "is true, but auth.pipeline has no source of type builtin: keys made there would open "
            "nothing; want one, such as {name: local, type: builtin}",
            needs=(("auth", "enabled"), *(types or [at])),
        )


def _check_secrets(admin: Admin, findings: Findings) -> None:
    from_file = bool(admin.token_file)
    at: KeyPath = ("admin", "token_file" if from_file else "token")
    if admin.token:
        fault = token_fault(admin.token)
        if fault:
            where = "holds" if from_file else "is"
            findings.check(at, f"{where} a token (hidden) {fault}")
    elif admin.enabled and not from_file:
        findings.check(
            ("admin", "enabled"),
            "is true, but there is no token; want admin.token or admin.token_file",
            needs=(at, ("admin", "token_file")),
        )
    at = ("admin", "key_secret_file" if admin.key_secret_file else "key_secret")
    if admin.key_secret and len(admin.key_secret) < SHORTEST_SECRET:
        where = "holds" if admin.key_secret_file else "is"
        findings.check(
            at,
            f"{where} a secret (hidden) of {len(admin.key_secret)} characters; "
            f"want at least {SHORTEST_SECRET}",
        )


def _check_listen(config: Config, findings: Findings) -> None:
    at: KeyPath = ("admin", "listen")
    listen = config.admin.listen
    try:
        address = parse_listen(listen)
    except ValueError as error:
        findings.check(at, f"{quoted(listen)} {error}")
        return
    if not config.admin.enabled:
        return
    for other in config.server.listen:
        try:
            theirs = parse_listen(other)
        except ValueError:
            continue  # told already
        if listen == other if None in (address, theirs) else _collide(address, theirs):
            findings.check(
                at,
                f"{quoted(listen)} is taken by {quoted(other)} of server.listen; "
                "want a port of its own",
                needs=(("server", "listen"), ("admin", "enabled")),
            )
            return


def _collide(one: tuple[str, int] | None, other: tuple[str, int] | None) -> bool:
    """Say whether two addresses cannot be listened on at once."""
    if one is None or other is None or one[1] != other[1] or one[1] == 0:
        return False
    hosts = {one[0] or "0.0.0.0", other[0] or "0.0.0.0"}
    if len(hosts) == 1 or "::" in hosts:
        return True  # "::" takes the IPv4 addresses as well
    return "0.0.0.0" in hosts and all(isinstance(ip_address(host), IPv4Address) for host in hosts)
