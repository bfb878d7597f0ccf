"""Where OpenCode is sent."""

from __future__ import annotations

import pytest

from tests.config.conftest import Load, Problems

PLAIN = "backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false}\n"
ON = PLAIN + "opencode: {enabled: true, url: '"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            PLAIN + "opencode: {enabled: true}",
            "opencode.enabled: is true, but there is no opencode.url",
        ),
        (ON + "http://gw.example'}", 'opencode.url: "http://gw.example" is neither https nor on'),
        (ON + "http://10.0.0.1:8000'}", "is neither https nor on this machine"),
        (ON + "https://gw.example/v1'}", "ends in /v1, which is appended"),
        (ON + "https://gw.example?x=1'}", "has more than a host and a path"),
        (ON + "https://u:p@gw.example'}", "has more than a host and a path"),
        (ON + "https://gw.example/{env:HOME}'}", "has more than a host and a path"),
        (ON + "gw.example'}", "is not a URL of http or https"),
        (PLAIN + "opencode: {url: 'ftp://gw.example'}", "is not a URL of http or https"),
        (
            PLAIN + "models: [{id: big}]\nopencode: {default_model: bigg}",
            'opencode.default_model: "bigg" is not the id of a model; did you mean "big"?',
        ),
        (
            PLAIN + "models: [{id: big}]\nopencode: {small_model: x}",
            'opencode.small_model: "x" is not the id of a model; want one of: big',
        ),
    ],
)
def test_problems(problems: Problems, text: str, expected: str) -> None:
    """Each is told, with what is wanted."""
    (told,) = problems(text)
    assert expected in told


def test_plain_http_beside_tls(problems: Problems) -> None:
    """The listeners speak TLS and nothing else."""
    text = (
        ON + "http://localhost'}\nserver: {tls: {enabled: true, cert_file: c.pem, key_file: k.pem}}"
    )
    (told,) = problems(text, files={"c.pem": "c", "k.pem": "k"})
    assert '"http://localhost" is not https, but server.tls.enabled is true' in told


@pytest.mark.parametrize(
    "text",
    [
        ON + "https://gw.example'}",
        ON + "https://gw.example:8443/llm/'}",
        ON + "http://127.0.0.1:8000'}",
        ON + "http://[::1]:8000'}",
        ON + "http://localhost:8000'}",
        PLAIN + "opencode: {url: 'http://gw.example'}",
        PLAIN + "opencode: {default_model: anything}",
        PLAIN + "models: [{id: big}]\nopencode: {default_model: big, small_model: big}",
    ],
)
def test_what_is_good(load: Load, text: str) -> None:
    """Also names of models that only the backends know, and plain HTTP where nothing is served."""
    load(text)
