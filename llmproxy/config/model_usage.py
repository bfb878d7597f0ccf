"""The configuration model: ``usage``, ``metrics`` and ``monitoring``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from llmproxy.config.setting import Duration, GiB, MiB, Secret, Size, setting


@attrs.frozen(kw_only=True)
class BuiltinReporter:
    """``usage.reporters[].builtin``: records in the gateway's own SQLite file."""

    retention_days: int = setting("days that records are kept; 0: for ever", 30, minimum=0)


@attrs.frozen(kw_only=True)
class WebhookReporter:
    """``usage.reporters[].webhook``: records posted to a service, signed (Standard Webhooks)."""

    url: str = setting("where to; no redirect is followed", "")
    secret: Secret = setting(
        'signs what is sent: "whsec_" and base64; empty: unsigned', Secret(""), secret=True
    )
    secret_file: str = setting("file to read secret from", "")
    previous_secret: Secret = setting(
        "during a rotation: the other secret, which signs as well", Secret(""), secret=True
    )
    previous_secret_file: str = setting("file to read previous_secret from", "")
    headers: Mapping[str, str] = setting("further headers to send", factory=dict, secret=True)
    timeout: Duration = setting("of one delivery", Duration(15.0), minimum=0.01)
    batch_size: int = setting("records in one delivery, at most", 100, minimum=1)
    batch_interval: Duration = setting(
        "longest time that a record waits for others", Duration(5.0), minimum=0.01
    )
    format: Literal["batch", "single"] = setting(
        "many records in an envelope, or one in each delivery under flat names", "batch"
    )
    max_backoff: Duration = setting(
        "longest wait between two tries of a delivery", Duration(3600.0), minimum=0.01
    )
    give_up_after: Duration = setting(
        "a delivery that failed for so long becomes a dead letter; 0: never", Duration(259200.0)
    )


@attrs.frozen(kw_only=True)
class DatabaseReporter:
    """``usage.reporters[].database``: records in a table, which is made when it is missing."""

    storage: str = setting("a name of storage.databases", "")
    table: str = setting("the table; a schema may stand before it", "usage_records")
    batch_size: int = setting("records in one transaction, at most", 500, minimum=1)
    batch_interval: Duration = setting(
        "longest time that a record waits for others", Duration(1.0), minimum=0.01
    )


@attrs.frozen(kw_only=True)
class Reporter:
    """``usage.reporters[]``: one receiver of usage records."""

    name: str = setting("unique; names its place in the spool")
    type: Literal["builtin", "webhook", "database", "log"] = setting(
        "the kind of receiver; builtin: what the admin API asks; log: the daemon's own log"
    )
    builtin: BuiltinReporter = setting("for type builtin", factory=BuiltinReporter)
    webhook: WebhookReporter = setting("for type webhook", factory=WebhookReporter)
    database: DatabaseReporter = setting("for type database", factory=DatabaseReporter)


@attrs.frozen(kw_only=True)
class Usage:
    """``usage``: one record for every request, and who receives it."""

    enabled: bool = setting("report usage to the reporters", True)
    reporters: tuple[Reporter, ...] = setting("who receives the records", ())
    spool_dir: str = setting(
        "where records are kept until every reporter has them; made when it is missing",
        "./data/spool",
    )
    spool_max_size: Size = setting(
        "of the spool; over it delivered records go first, then those that only some lack",
        Size(GiB),
        minimum=16 * MiB,
    )
    spool_retention: Duration = setting(
        "how long delivered records can be sent again", Duration(86400.0)
    )
    spool_sync_interval: Duration = setting(
        "how often what was written is forced to the disk; 0: the system decides", Duration(0.05)
    )
    include_request_body: bool = setting("put the request's body into its record", False)


@attrs.frozen(kw_only=True)
class Metrics:
    """``metrics``: what Prometheus may scrape."""

    enabled: bool = setting("count, and serve the counts", True)
    path: str = setting("where they are served", "/metrics")
    listen: str = setting("an address of its own for them; empty: the clients' listeners", "")
    custom_labels: tuple[str, ...] = setting("NAME=VALUE, put on every metric", ())
    latency_buckets: tuple[int, ...] = setting(
        "upper bounds of the histograms of time, in milliseconds",
        (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 120000, 300000),
    )


@attrs.frozen(kw_only=True)
class Monitoring:
    """``monitoring``: alerts on streams."""

    long_stream_alert: Duration = setting("a stream that lasts longer; 0: none", Duration(600.0))
    stalled_stream_alert: Duration = setting(
        "a stream that is silent for longer; 0: none", Duration(60.0)
    )
