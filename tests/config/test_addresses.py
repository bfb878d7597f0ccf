"""Tests of `llmproxy.config.addresses`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.config.addresses import (
    UnixListen,
    check_mysql_dsn,
    check_postgres_dsn,
    check_service_url,
    check_url,
    parse_host_port,
    parse_listen,
    parse_unix,
    shown_url,
)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        (":8000", ("", 8000)),
        (":0", ("", 0)),
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]:65535", ("::1", 65535)),
        ("tcp:8000:interface=127.0.0.1", None),
        ("tcp:port=8000", None),
        ("tcp6:8000:interface=\\:\\:1", None),
        ("unix:/run/llmproxy.sock", None),
        ("systemd:domain=INET:index=0", None),
    ],
)
def test_where_to_listen(listen: str, address: tuple[str, int] | None) -> None:
    """The short forms are taken apart, endpoint strings only looked at."""
    assert parse_listen(listen) == address


@pytest.mark.parametrize(
    ("listen", "read"),
    [
        ("unix:/run/llmproxy/sock", UnixListen("/run/llmproxy/sock")),
        ("unix:/run/sock:mode=660:backlog=7", UnixListen("/run/sock", 0o660, 7)),
        ("unix:mode=0600:address=run/sock", UnixListen("run/sock", 0o600)),
        (r"unix:/run/a\:b\\c", UnixListen("/run/a:b\\c")),
        ("tcp:8000", None),
        (":8000", None),
    ],
)
def test_unix_sockets(listen: str, read: UnixListen | None) -> None:
    """A path, and who may connect."""
    assert parse_listen(listen) in (None, ("", 8000))
    assert parse_unix(listen) == read


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "is not an address"),
        ("8000", "is not an address"),
        (":http", "is not an address"),
        (":65536", "has the port 65536"),
        ("localhost:8000", "is not an address"),
        ("300.0.0.1:80", "has no IP address"),
        ("[127.0.0.1]:80", "has no IP address"),
        ("[]:80", "has no IP address"),
        ("::1:80", "is not an address"),
        ("tcp:", "is not an address"),
        ("tcp:interface=127.0.0.1", "has no port"),
        ("tcp:99999", "has no port"),
        ("systemd:index=0", "has no domain"),
        ("haproxy:tcp:8000", "want server.proxy_protocol: true"),
        ("unix::mode=660", "has no path"),
        ("unix:mode=660", "has no path"),
        ("unix:/run/x:mode=8", "a mode that is none; want octal"),
        ("unix:/run/x:backlog=0", "a backlog that is none"),
        ("unix:/run/x:lockfile=1", "other arguments than mode and backlog"),
        ("unix:/run/x:/run/y", "other arguments than mode and backlog"),
        ("unix:/" + "x" * 107, "a path of 108 bytes; want at most 107"),
        ("ssl:443:privateKey=k.pem:certKey=c.pem", "want tcp:, and server.tls"),
        ("udp:53", "is not an address"),
        (":٣", "is not an address"),
    ],
)
def test_where_nobody_can_listen(bad: str, words: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError, match=words):
        parse_listen(bad)


@pytest.mark.parametrize(
    "url",
    [
        "demo:",
        "http://127.0.0.1:8001",
        "https://gpu-1.example.org/",
        "http://[::1]:8000/prefix",
        "http://vllm-1:8000/v1/gateway",
    ],
)
def test_urls(url: str) -> None:
    """Origins, with or without a path prefix."""
    check_url(url)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "is empty"),
        ("127.0.0.1:8000", "not a URL"),
        ("ftp://host", "not a URL of http"),
        ("http:host", "not a URL of http"),
        ("http://", "no valid host"),
        ("http://:80", "no valid host"),
        ("http://300.1.1.1", "no valid host"),
        ("http://-x", "no valid host"),
        ("http://vllm_server:8001", "a host with an underscore"),
        ("http://[::1", "is not a URL"),
        ("http://host:99999", "is not a URL"),
        ("http://host:x", "is not a URL"),
        ("http://host:0", "no valid port"),
        ("http://host:", "no valid port"),
        ("http://user:pw@host", "user or a password"),
        ("http://host/?a=b", "a query"),
        ("http://host#x", "a fragment"),
        ("http://host /x", "characters that no URL"),
        ("http://höst", "xn--"),
        ("http://host/v1", "drop the /v1"),
        ("http://host/v1/", "drop the /v1"),
        ("http://host/prefix/v1", "drop the /v1"),
        ("http://host/v1/chat/completions", "appends the request's own path"),
        ("demo:x", 'exactly "demo:"'),
        ("Demo:", 'exactly "demo:"'),
    ],
)
def test_what_is_no_url_of_a_backend(bad: str, words: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError, match=words):
        check_url(bad)


@pytest.mark.parametrize(
    "url",
    [
        "https://h",
        "http://127.0.0.1:8080/v1/keys",
        "https://[::1]/a?b=c&d=%20",
        "https://iam.example.org/hooks/keys/",
    ],
)
def test_urls_of_services(url: str) -> None:
    """Any path and any query."""
    check_service_url(url)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "is empty; want"),
        ("demo:", "is not a URL of http or https"),
        ("https:/h", "is not a URL of http or https"),
        ("unix:/run/x", "is not a URL of http or https"),
        ("https://u:s3cret@h", "has a user or a password in it; want it in headers instead"),
        ("https://h/#s3cret", "has a fragment"),
        ("https://h h", "has characters that no URL may have"),
        ("https://", "has no valid host"),
        ("https://300.1.1.1/", "has no valid host"),
        ("https://my_host/", "has a host with an underscore"),
        ("https://h:0/", "has no valid port"),
        ("https://h:s3cret/", "is not a URL"),
    ],
)
def test_what_is_no_url_of_a_service(bad: str, words: str) -> None:
    """The message says what is wrong, and shows nothing of it."""
    with pytest.raises(ValueError, match=words) as caught:
        check_service_url(bad)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:6379", ("127.0.0.1", 6379)),
        ("redis:1", ("redis", 1)),
        ("my_redis.local:65535", ("my_redis.local", 65535)),
        ("[::1]:6379", ("::1", 6379)),
    ],
)
def test_hosts_with_ports(text: str, address: tuple[str, int]) -> None:
    """A name, or an address of either kind; containers may have an underscore."""
    assert parse_host_port(text) == address


@pytest.mark.parametrize(
    "bad",
    [
        *("", "h", ":1", "h:", "h:0", "h:65536", "h:x", "h:٣", "h:+1", "::1:1", "[::1]", "[::1:1"),
        *("[h]:1", "[[::1]]:1", "1.2.3.400:1", "u@h:1", "redis://h:1", "h/1:1", "h h:1", " h:1"),
    ],
)
def test_what_is_no_host_with_a_port(bad: str) -> None:
    """Both are needed, and nothing else."""
    with pytest.raises(ValueError, match=r"is not an address|has no valid port"):
        parse_host_port(bad)


@pytest.mark.parametrize(
    "dsn",
    [
        "mysql://u:p%2F@h:3306/d",
        "mysql://u@my_host/d",
        "mariadb://h/d",
        "MySQL://u:p@[::1]:1/d-1",
        "mysql://u:p@h/d?ssl_ca=/etc/ca.pem&ssl_cert=/c&ssl_key=/k",
        "mysql://u:p@/d?unix_socket=/run/mysqld/mysqld.sock",
    ],
)
def test_urls_of_mysql(dsn: str) -> None:
    """User, password and port may be left out; what a URL cannot hold is written as %2F."""
    check_mysql_dsn(dsn)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "is empty; want"),
        ("s3cret", "is not a URL of mysql"),
        ("mysql:s3cret", "is not a URL of mysql"),
        ("mysql+pymysql://u:s3cret@h/d", "is not a URL of mysql"),
        ("mysql://u:s3cret@h", "names no database"),
        ("mysql://u:s3cret@h/", "names no database"),
        ("mysql://u:s3cret@h/d/e", "names no database"),
        ("mysql://u:s3cret@/d", "has no valid host"),
        ("mysql://u:s3cret@h:/d", "has no valid port"),
        ("mysql://u:s3cret@h:0/d", "has no valid port"),
        ("mysql://u:s3cret@h:x/d", "is not a URL"),
        ("mysql://u:s3/cret@h/d", "is not a URL"),
        ("mysql://u:s3#cret@h/d", "is not a URL"),
        ("mysql://u:s3cret@h/d#s3", 'has a "#"; want it without'),
        ("mysql://u:12?s3cret@h/d", "has other options than|names no database"),
        ("mysql://u:s3cret@h/d?ssl=s3", "has other options than ssl_ca, ssl_cert, ssl_key, unix"),
        ("mysql://u:s3cret@/d?ssl_ca=x", "has no valid host"),
        ("mysql://u:s3 cret@h/d", "has characters"),
    ],
)
def test_what_is_no_url_of_mysql(bad: str, words: str) -> None:
    """The message shows nothing of it."""
    with pytest.raises(ValueError, match=words) as caught:
        check_mysql_dsn(bad)
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn", ["postgres://h/d", "postgresql://u:p@h1,h2/d?x=y", "host=/run dbname=d", " dbname = d"]
)
def test_connection_strings_of_postgresql(dsn: str) -> None:
    """What libpq makes of the rest is its business."""
    check_postgres_dsn(dsn)


@pytest.mark.parametrize("bad", ["", "s3cret", "mysql://u:s3cret@h/d", "//h/d", "=x"])
def test_what_is_no_connection_string(bad: str) -> None:
    """The message shows nothing of it."""
    with pytest.raises(ValueError, match="is not a connection string") as caught:
        check_postgres_dsn(bad)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/x", "http://host/x"),
        ("http://user:s3cret@host/x", "http://(hidden)@host/x"),
        ("http://user:s3/cret@host", "http://(hidden)@host"),
        ("user:s3cret@host", "user:(hidden)@host"),
        ("http://host/x?key=s3cret", "http://host/x?(hidden)"),
    ],
)
def test_shown_urls_have_no_secrets(url: str, shown: str) -> None:
    """Neither passwords nor queries."""
    assert shown_url(url) == shown


@given(st.text(alphabet="htps:/[]@?#.%0123459vx-\\= ", max_size=30) | st.text())
def test_nothing_but_value_error(text: str) -> None:
    """Any text passes, or is told what is wrong with it."""
    checks = (check_url, check_service_url, parse_listen, parse_host_port, check_mysql_dsn)
    for check in (*checks, check_postgres_dsn):
        said = "nothing"
        try:
            check(text)
        except ValueError as error:
            said = str(error)
        assert said == "nothing" or said.startswith(("is ", "has ", "ends ", "would ", "names "))
