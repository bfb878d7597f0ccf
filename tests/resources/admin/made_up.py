"""Values for the formats of the OpenAPI document that are the admin API's own.

Schemathesis loads it (``SCHEMATHESIS_HOOKS``): without it, what it makes up for a valid request
would be refused for reasons that no JSON schema can say.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

PRINTABLE = st.text("aZ09 -_*?[]/.:@\"'\\\u00e9\u9648\U0001f600", max_size=30) | st.sampled_from(
    [1, 255, 256, 257, 1023, 1024, 1025]
).map(lambda length: "x" * length)
"""With the lengths at which limits are, or drawing them would take minutes."""

MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)).map(
    lambda moment: moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
)
DAYS = st.dates(date(1970, 1, 1), date(9999, 12, 31)).map(date.isoformat)
NETWORKS = (
    st.ip_addresses().map(str)
    | st.tuples(st.integers(0, 255), st.integers(8, 32)).map(
        lambda pair: f"{pair[0]}.0.0.0/{pair[1]}"
    )
    | st.sampled_from(["::/0", "fd00::/8", "2001:db8::/32"])
)
SEEDS = [{"id": f"key_seeded_{number}", "key": f"sk-seeded-{number}"} for number in range(20)]
"""Keys that are there when the requests begin, and after each synchronisation."""
BACKEND = "vllm-1"
"""The backend that is there."""

OF_BACKENDS = ("/admin/backends/drain", "/admin/backends/enable")
"""What names a backend; half of what is made up for it names that one."""


for name, strategy in (
    ("printable", PRINTABLE),
    ("date-time", MOMENTS),
    ("date", DAYS),
    ("network", NETWORKS),
    ("key-id", PRINTABLE.filter(bool)),
):
    schemathesis.openapi.format(name, strategy)


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Write 5.0 as 5: the same number to JSON schemas, but not to readers with types."""
    if isinstance(body, float) and body.is_integer():
        return int(body)
    if isinstance(body, list):
        return [map_body(context, value) for value in body]
    if isinstance(body, dict):
        return {name: map_body(context, value) for name, value in body.items()}
    return body


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """Ask for what is there, and let no key of it go in a full synchronisation."""
    body = case.body
    if isinstance(body, dict):
        key_id = body.get("id")
        if isinstance(key_id, str) and 0 < len(key_id) <= 256 and key_id.isprintable():
            case.body = {**body, "id": SEEDS[len(key_id) % len(SEEDS)]["id"]}
        name = body.get("name")
        if case.path in OF_BACKENDS and isinstance(name, str) and len(name) % 2:
            case.body = {**body, "name": BACKEND}
        if case.path == "/admin/keys/sync" and isinstance(body.get("keys"), list):
            case.body = {**body, "keys": [*body["keys"], *SEEDS]}
    return case


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out what only breaks a rule about several fields, which no schema here can say."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("keys"), list):
        return all(map(_goes_together, body["keys"]))
    return _goes_together(body)


def _goes_together(fields: Any) -> bool:
    if not isinstance(fields, dict):
        return True
    life = (fields.get("starts_at"), fields.get("expires_at"))
    days = (fields.get("since"), fields.get("until"))
    quota = fields.get("used_quota") or fields.get("quota_reset_period") not in (None, "never")
    return (
        # What is stored of the one that is not given is not known here.
        (life == (None, None) or (None not in life and str(life[0]) < str(life[1])))
        and (None in days or str(days[0]) <= str(days[1]))
        and not (quota and fields.get("total_quota") is None)
        and not ("prefix" in fields and "key_hash" not in fields)
    )
