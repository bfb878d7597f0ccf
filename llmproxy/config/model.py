"""The configuration model: every key, its type, its default and a line on it.

One class per YAML mapping, one attribute per key, under the key's own name. This module is the
single place where a key is declared (with its neighbours `model_auth`, `model_opencode`,
`model_stores` and `model_usage`, which hold further sections): the loader derives types and
defaults from it, and a test holds ``etc/llmproxy.reference.yaml`` to it. It knows nothing of YAML,
files or the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from llmproxy.config.model_auth import Auth, StaticKey
from llmproxy.config.model_opencode import OpenCode
from llmproxy.config.model_stores import Admin, RateLimit, Storage
from llmproxy.config.model_usage import Metrics, Monitoring, Usage
from llmproxy.config.setting import Cidr, Duration, GiB, MiB, Percent, Secret, Size, setting


@attrs.frozen(kw_only=True)
class TlsCertificate:
    """``server.tls.certificates[]``: a certificate for clients that ask for certain names."""

    server_names: tuple[str, ...] = setting(
        'host names that it is shown for; "*.example.org" stands for one label more', ()
    )
    cert_file: str = setting("certificate and those between it and its CA, PEM", "")
    key_file: str = setting("private key, PEM, without a passphrase", "")


@attrs.frozen(kw_only=True)
class ServerTls:
    """``server.tls``: TLS on the listeners."""

    enabled: bool = setting("serve TLS, and nothing else, on every listener", False)
    cert_file: str = setting("certificate and those between it and its CA, PEM", "")
    key_file: str = setting("private key, PEM, without a passphrase", "")
    certificates: tuple[TlsCertificate, ...] = setting(
        "further ones, chosen by the name that a client asks for (SNI)", ()
    )
    client_ca_file: str = setting("CAs that sign the clients' certificates, PEM", "")
    client_auth: Literal["none", "request", "require"] = setting(
        "whether clients show certificates; a good one's subject can stand for a key", "none"
    )
    min_version: Literal["1.2", "1.3"] = setting("lowest TLS version", "1.2")


@attrs.frozen(kw_only=True)
class Cors:
    """``server.cors``: what browsers of other origins may do."""

    enabled: bool = setting("answer cross-origin requests", False)
    allowed_origins: tuple[str, ...] = setting('origins, or "*"', ("*",))
    allowed_methods: tuple[str, ...] = setting("methods", ("GET", "POST", "OPTIONS"))
    allowed_headers: tuple[str, ...] = setting(
        'request headers, or "*"', ("Authorization", "Content-Type", "X-API-Key", "X-Request-ID")
    )
    expose_headers: tuple[str, ...] = setting("response headers that scripts may read", ())
    allow_credentials: bool = setting("let browsers send credentials", False)
    max_age: int = setting("seconds that a preflight answer holds", 86400, minimum=0)


@attrs.frozen(kw_only=True)
class Server:
    """``server``: listeners and the limits of the wire."""

    listen: tuple[str, ...] = setting(
        '":port", "ip:port", "unix:/path", another Twisted endpoint string, or a list of these',
        (":8000",),
    )
    workers: int | Literal["auto"] = setting(
        "processes on the same listeners; auto: one for each core", 1, minimum=1
    )
    max_body_size: Size = setting("largest request body; over it 413", Size(64 * MiB), minimum=1)
    max_inflight_bytes: Size = setting(
        "all request bodies held at once; over it 503", Size(GiB), minimum=1
    )
    max_header_bytes: Size = setting(
        "largest request head; over it 431", Size(32 * 1024), minimum=1024
    )
    max_connections: int = setting("open client connections; on more 503", 10000, minimum=1)
    max_loop_lag: Duration = setting(
        "an event loop that is later than this turns requests away with 503; 0: never",
        Duration(2.0),
    )
    header_timeout: Duration = setting(
        "absolute, from the first byte to the end of the head; over it 408", Duration(10.0)
    )
    body_timeout: Duration = setting(
        "longest silence inside a request body; over it 408", Duration(30.0)
    )
    idle_timeout: Duration = setting(
        "how long a kept-alive connection may wait for its next request", Duration(120.0)
    )
    write_stall_timeout: Duration = setting(
        "a client that takes nothing for so long is cut off", Duration(60.0)
    )
    drain_delay: Duration = setting(
        "after SIGTERM: how long /ready says 503 before the listeners close", Duration(1.0)
    )
    drain_timeout: Duration = setting("how long streams may go on after SIGTERM", Duration(600.0))
    trusted_proxies: tuple[Cidr | Literal["unix:"], ...] = setting(
        'networks whose X-Forwarded-For is believed; "unix:": who comes by a Unix socket', ()
    )
    proxy_protocol: bool = setting(
        "every connection begins with HAProxy's PROXY protocol, v1 or v2", False
    )
    tls: ServerTls = setting("TLS on the listeners", factory=ServerTls)
    cors: Cors = setting("cross-origin requests", factory=Cors)


@attrs.frozen(kw_only=True)
class BackendTls:
    """``backends[].tls``: how the backend's certificate is checked, and our own shown."""

    verify: bool = setting("check the certificate and its name", True)
    ca_file: str = setting("trust these CAs instead of the system's, PEM", "")
    cert_file: str = setting("client certificate, PEM", "")
    key_file: str = setting("client key, PEM; empty: in cert_file", "")
    server_name: str = setting("name to ask for and check; empty: the URL's host", "")


@attrs.frozen(kw_only=True)
class Backend:
    """``backends[]``: one inference server."""

    name: str = setting("unique; seen in logs and on /ready")
    url: str = setting(
        'http:// or https://, a path prefix is kept; "demo:" is the built-in stand-in'
    )
    weight: int = setting("share of the traffic", 1, minimum=1)
    models: tuple[str, ...] = setting(
        "names (globs) that it serves; empty: what its own GET /v1/models says, else any", ()
    )
    api_key: Secret = setting("sent as Bearer", Secret(""), secret=True)
    api_key_file: str = setting("file to read api_key from", "")
    headers: Mapping[str, str] = setting("further headers to send", factory=dict, secret=True)
    max_concurrent: int = setting(
        "requests at once, 0: no cap; over it requests wait in the queue", 0, minimum=0
    )
    connect_timeout: Duration = setting("TCP and TLS handshake", Duration(5.0))
    first_byte_timeout: Duration = setting(
        "until the first byte behind the head; prefill is slow", Duration(300.0)
    )
    stall_timeout: Duration = setting("longest silence between two pieces", Duration(120.0))
    timeout: Duration = setting("whole request, 0: none", Duration(0.0))
    inject_usage: bool = setting("ask for usage in streams where the client did not", True)
    tls: BackendTls = setting("TLS towards the backend", factory=BackendTls)


@attrs.frozen(kw_only=True)
class Model:
    """``models[]``: one model as clients see it."""

    id: str = setting("the name that clients use")
    name: str = setting("for humans; empty: the id", "")
    description: str = setting("for humans", "")
    upstream_model: str = setting("name sent to the backend; empty: the id", "")
    aliases: tuple[str, ...] = setting("other names that clients may use", ())
    backends: tuple[str, ...] = setting("names of backends; empty: by backends[].models", ())
    fallback: tuple[str, ...] = setting("models to try when no backend can take it", ())
    context: int | None = setting("context window in tokens, published to clients", None, minimum=1)
    output: int | None = setting("longest answer in tokens, published to clients", None, minimum=1)
    images: bool = setting("takes images; published to clients", False)
    reasoning: bool = setting("thinks before it answers; published to clients", False)
    first_byte_timeout: Duration | None = setting("overrides the backend's", None)


@attrs.frozen(kw_only=True)
class Retry:
    """``routing.retry``: another try after a failure that the backend provably did not accept."""

    enabled: bool = setting("try again at all", True)
    max_retries: int = setting("further tries after the first", 2, minimum=0)
    initial_wait: Duration = setting("before a backend is tried a second time", Duration(0.1))
    max_wait: Duration = setting("longest of these waits", Duration(2.0))
    multiplier: float = setting("each wait is so much longer than the last", 2.0, minimum=1)
    budget: Percent = setting("further tries, as a share of the requests", Percent(20.0))


@attrs.frozen(kw_only=True)
class Breaker:
    """``routing.breaker``: what follows when requests to a backend fail."""

    failures: int = setting("so many failed requests leave a backend out, 0: none do", 5, minimum=0)
    window: Duration = setting("within this time", Duration(60.0), minimum=0.01)
    open_for: Duration = setting(
        "how long it is left out; then one request is tried", Duration(30.0), minimum=0.01
    )
    max_ejected: Percent = setting(
        "most of the backends of a model that are left out at once", Percent(50.0)
    )


@attrs.frozen(kw_only=True)
class Queue:
    """``routing.queue``: requests that wait for room at a backend."""

    max_waiting: int = setting("so many may wait for each model", 1000, minimum=0)
    max_wait: Duration = setting("each may wait so long; 0: as long as its client", Duration(60.0))


@attrs.frozen(kw_only=True)
class Routing:
    """``routing``: which backend takes a request."""

    load_balance: Literal[
        "round_robin", "weighted", "least_connections", "latency_based", "session_affinity"
    ] = setting("the strategy", "least_connections")
    retry: Retry = setting("tries after a failure", factory=Retry)
    breaker: Breaker = setting("backends whose requests fail are left out", factory=Breaker)
    slow_start: Duration = setting(
        "how long a backend that is back gets less than its share, 0: it does not", Duration(30.0)
    )
    queue: Queue = setting("requests that wait for room, fair between keys", factory=Queue)
    fallback: tuple[str, ...] = setting("models to try for every model, after its own", ())


@attrs.frozen(kw_only=True)
class HealthCheck:
    """``health_check``: active checks of every backend."""

    enabled: bool = setting("check at all; without it every backend counts as up", True)
    interval: Duration = setting("between two checks of a backend", Duration(10.0), minimum=0.01)
    timeout: Duration = setting("of one check", Duration(5.0), minimum=0.01)
    path: str = setting("below the backend's URL", "/health")
    method: Literal["GET", "HEAD"] = setting("of the check", "GET")
    expected_status: int = setting("what a healthy backend answers", 200, minimum=100)
    unhealthy_threshold: int = setting("failures in a row that take it out", 3, minimum=1)
    healthy_threshold: int = setting("successes in a row that bring it back", 2, minimum=1)


@attrs.frozen(kw_only=True)
class LogFile:
    """``log.file``: for ``output: file``."""

    path: str = setting("the file; appended to", "")
    max_size: Size = setting("set aside before it grows beyond; 0: never", Size(0))
    keep: int = setting("how many older ones stay: PATH.1 and so on", 5, minimum=1)


@attrs.frozen(kw_only=True)
class Log:
    """``log``: the daemon's own log."""

    level: Literal["debug", "info", "warning", "error"] = setting("least severe to write", "info")
    format: Literal["json", "text"] = setting("one JSON object or one plain line per event", "text")
    output: Literal["stdout", "stderr", "journal", "file"] = setting("where to", "stdout")
    file: LogFile = setting("for output: file", factory=LogFile)


@attrs.frozen(kw_only=True)
class AccessLog:
    """``logging.access``: one line per request."""

    enabled: bool = setting("write it", True)
    format: Literal["combined", "json"] = setting("Apache's combined format, or JSON", "combined")
    output: Literal["stdout", "stderr", "journal", "file"] = setting("where to", "stdout")
    path: str = setting("for output: file; appended to", "")
    max_size: Size = setting("set aside before it grows beyond; 0: never", Size(0))
    keep: int = setting("how many older ones stay: PATH.1 and so on", 5, minimum=1)


@attrs.frozen(kw_only=True)
class Logging:
    """``logging``: logs of requests."""

    access: AccessLog = setting("one line per request", factory=AccessLog)


@attrs.frozen(kw_only=True)
class Config:
    """The whole file."""

    server: Server = setting("listeners and limits", factory=Server)
    backends: tuple[Backend, ...] = setting("the inference servers")
    models: tuple[Model, ...] = setting("when given, these are the models that clients see", ())
    auth: Auth = setting("who may use the gateway", factory=Auth)
    api_keys: tuple[StaticKey, ...] = setting("the short form: keys with auth.storage: file", ())
    rate_limit: RateLimit = setting("how much may be asked", factory=RateLimit)
    storage: Storage = setting("databases and caches that others name", factory=Storage)
    admin: Admin = setting("the admin API", factory=Admin)
    usage: Usage = setting("one record for every request", factory=Usage)
    metrics: Metrics = setting("what Prometheus may scrape", factory=Metrics)
    monitoring: Monitoring = setting("alerts on streams", factory=Monitoring)
    routing: Routing = setting("which backend takes a request", factory=Routing)
    health_check: HealthCheck = setting("active checks", factory=HealthCheck)
    log: Log = setting("the daemon's own log", factory=Log)
    logging: Logging = setting("logs of requests", factory=Logging)
    opencode: OpenCode = setting("what OpenCode is told", factory=OpenCode)


LATER_SECTIONS: Mapping[str, str] = {
    "discovery": "service discovery",
    "hooks": "hooks",
}
"""Top-level sections of the contract that this version refuses as "not available yet"."""

LATER_KEYS: Mapping[type, Mapping[str, str]] = {
    Logging: {"request": "a log of request bodies"},
}
"""Keys of the contract, by the class that will hold them, that are refused likewise."""
