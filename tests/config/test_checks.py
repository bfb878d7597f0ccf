"""Tests of `llmproxy.config.checks`."""

from __future__ import annotations

import pytest

from tests.config.conftest import Load, Problems

AUTH = "auth: {enabled: false}\n"


def backends(*items: str) -> str:
    """Write a file with these backends, from line 2 on, and authentication off."""
    return "backends:\n" + "".join(f"  - {{{item}}}\n" for item in items) + AUTH


ONE = backends("name: a, url: 'demo:'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen: []", "server.listen: is an empty list; want at least one address"),
        (
            "listen: nowhere",
            'server.listen: "nowhere" is not an address to listen on; want',
        ),
        ("listen: ['', ':1']", 'server.listen[0]: "" is not an address'),
        ("listen: [':1', ':1']", 'server.listen[1]: ":1" is given twice'),
        ("listen: ':99999'", 'server.listen: ":99999" has the port 99999; want one of 0 to 65535'),
        (
            "max_inflight_bytes: 1MiB",
            "server.max_inflight_bytes: 1048576 bytes cannot hold one body of max_body_size",
        ),
        (
            "cors: {enabled: true, allow_credentials: true}",
            'server.cors.allow_credentials: is true, but allowed_origins has "*"',
        ),
        *(
            (
                f"cors: {{allowed_origins: ['http://a', '{origin}']}}",
                f'server.cors.allowed_origins[1]: "{origin}" is not an origin as browsers send it',
            )
            for origin in ("", "a.b", "https://a/", "https://A", "https://*.a", "http://é", "//a")
        ),
        (
            'cors: {allowed_methods: [GET, "GET\\r\\nX: y"]}',
            'server.cors.allowed_methods[1]: "GET\\r\\nX: y" is not a method\'s name; want',
        ),
        (
            'cors: {allowed_headers: ["X\\nY"]}',
            'server.cors.allowed_headers[0]: "X\\nY" is not a header\'s name; want',
        ),
        (
            "cors: {expose_headers: ['X Y']}",
            'server.cors.expose_headers[0]: "X Y" is not a header\'s name; want',
        ),
    ],
)
def test_server(problems: Problems, text: str, expected: str) -> None:
    """Addresses and limits that fit together."""
    (told,) = problems(f"{ONE}server: {{{text}}}\n")
    assert told.startswith(f"x.yaml:4: {expected}")


@pytest.mark.parametrize(
    "text",
    [
        "listen: ['127.0.0.1:0', '127.0.0.1:0']",
        "listen: ['unix:/run/a', 'tcp:80']",
        "max_body_size: 1MiB, max_inflight_bytes: 1MiB",
        "cors: {allow_credentials: true, allowed_origins: ['https://a']}",
        "cors: {allowed_origins: ['null', 'http://[::1]:3000', 'vscode-webview://a-b']}",
        "cors: {allowed_origins: ['*'], allowed_methods: ['*'], allowed_headers: ['*']}",
    ],
)
def test_servers_that_are_good(problems: Problems, text: str) -> None:
    """Any free port may be asked for twice."""
    assert not problems(f"{ONE}server: {{{text}}}\n")


def test_there_must_be_a_backend(problems: Problems) -> None:
    """An empty list is told, as is one whose items are all commented out."""
    expected = ["x.yaml:1: backends: is empty; want at least one backend"]
    assert problems("backends: []\n" + AUTH) == expected
    assert problems("backends:\n#  - x\n" + AUTH) == expected


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("name: a, url: 'demo:'", '.name: "a" is taken by backends[0].name; want a unique one'),
        ("name: ' ', url: 'demo:'", '.name: " " is empty; want a name'),
        ('name: "b\\n", url: "demo:"', '.name: "b\\n" has control characters'),
        ("name: b, url: nowhere", '.url: "nowhere" is not a URL of http or https; want'),
        ("name: b, url: 'http://h/v1'", '.url: "http://h/v1" ends in /v1, but LLMProxy appends'),
        ("name: b, url: 'http://u:p@h'", '.url: "http://(hidden)@h" has a user or a password'),
        (
            "name: b, url: 'http://h', tls: {verify: false}",
            ".tls: has settings, but the url is not https; want https, or no settings",
        ),
        ("name: b, url: 'demo:', models: ['']", ".models: has an empty name"),
        ("name: b, url: 'demo:', api_key: 'a b'", ".api_key: has a key (hidden) that no header"),
        ("name: b, url: 'demo:', headers: {'X A': b}", '.headers["X A"]: is not a header\'s name'),
        ("name: b, url: 'demo:', headers: {'': b}", '.headers[""]: is not a header\'s name'),
        ("name: b, url: 'demo:', headers: {Host: b}", ".headers.Host: belongs to the connection"),
        ("name: b, url: 'demo:', headers: {te: b}", ".headers.te: belongs to the connection"),
        (
            "name: b, url: 'demo:', headers: {Content-Length: '5'}",
            ".headers.Content-Length: belongs to the connection, not to the request",
        ),
        (
            "name: b, url: 'demo:', api_key: k, headers: {authorization: b}",
            ".headers.authorization: is given, and so is api_key; want one of them",
        ),
        (
            "name: b, url: 'demo:', headers: {X-A: b, x-a: c}",
            '.headers.x-a: is the same header as "X-A"; want one of them',
        ),
        (
            'name: b, url: "demo:", headers: {X-A: "b\\r\\nc: d"}',
            ".headers.X-A: has a value (hidden) with control characters; want it without",
        ),
    ],
)
def test_backends(problems: Problems, item: str, expected: str) -> None:
    """Names, URLs and header fields."""
    (told,) = problems(backends("name: a, url: 'http://h:1'", item))
    assert told.startswith(f"x.yaml:3: backends[1]{expected}")


def test_a_backend_that_is_good(load: Load) -> None:
    """Its own Authorization is fine when there is no api_key, and so is TLS with https."""
    config = load(
        backends(
            "name: a, url: 'https://h', tls: {verify: false}, headers: {Authorization: Basic x}"
        )
    )
    assert config.backends[0].headers == {"Authorization": "Basic x"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "- {id: m}\n  - {id: m}",
            '6: models[1].id: "m" is taken by models[0].id; want a unique one',
        ),
        ("- {id: m, aliases: [m]}", '5: models[0].aliases[0]: "m" is taken by models[0].id'),
        (
            "- {id: m, aliases: [x]}\n  - {id: x}",
            '6: models[1].id: "x" is taken by models[0].aliases[0]',
        ),
        ("- {id: ''}", '5: models[0].id: "" is empty; want a name'),
        (
            "- {id: m, backends: [a, vlm]}",
            '5: models[0].backends[1]: "vlm" is not the name of a backend; did you mean "vllm"?',
        ),
        (
            "- {id: m, backends: [zzz]}",
            '5: models[0].backends[0]: "zzz" is not the name of a backend; want one of: a, vllm',
        ),
    ],
)
def test_models(problems: Problems, text: str, expected: str) -> None:
    """Ids and aliases are unique together, and backends exist."""
    start = "backends: [{name: a, url: 'demo:'}, {name: vllm, url: 'http://h'}]\n\n" + AUTH
    (told,) = problems(f"{start}models:\n  {text}\n")
    assert told.startswith(f"x.yaml:{expected}")


def test_no_backend_is_missed_where_a_name_is_broken(problems: Problems) -> None:
    """It may be the one."""
    (told,) = problems(backends("name: 5, url: 'demo:'") + "models: [{id: m, backends: [x]}]\n")
    assert "backends[0].name" in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path: health", 'health_check.path: "health" is not a path; want one like "/health"'),
        ("path: ''", 'health_check.path: "" is not a path'),
        ("path: '/a b'", 'health_check.path: "/a b" is not a path'),
        ("expected_status: 600", "health_check.expected_status: 600 is not an HTTP status"),
        ("expected_status: 99", "health_check.expected_status: 99 is too small; want at least 100"),
    ],
)
def test_health_check(problems: Problems, text: str, expected: str) -> None:
    """A path and a status that can be."""
    (told,) = problems(f"{ONE}health_check: {{{text}}}\n")
    assert told.startswith(f"x.yaml:4: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "models: [{id: qwen, fallback: [lama]}, {id: llama}]",
            'models[0].fallback[0]: "lama" is not the id of a model; did you mean "llama"?',
        ),
        (
            "models: [{id: qwen}]\nrouting: {fallback: [mistral]}",
            'routing.fallback[0]: "mistral" is not the id of a model; want one of: qwen',
        ),
    ],
)
def test_models_that_stand_in(problems: Problems, text: str, expected: str) -> None:
    """They are models that there are."""
    (told,) = problems(f"{ONE}{text}\n")
    assert told.partition(": ")[2] == expected


def test_without_models_any_may_stand_in(problems: Problems) -> None:
    """It may be one that a backend lists."""
    assert not problems(f"{ONE}routing: {{fallback: [mistral]}}\n")
