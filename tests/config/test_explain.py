"""Tests of `llmproxy.config.explain`."""

from __future__ import annotations

import cattrs
import pytest

from llmproxy.config.explain import failures
from llmproxy.config.findings import Findings
from llmproxy.config.model import LATER_KEYS, LATER_SECTIONS, Config
from llmproxy.config.model_auth import Auth
from tests.config.conftest import Problems

START = "backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modles: []", 'modles: is an unknown key; did you mean "models"?'),
        ("healthCheck: {}", 'healthCheck: is an unknown key; did you mean "health_check"?'),
        ("weight: 1", 'weight: is an unknown key here; did you mean "backends[].weight"?'),
        ("url: x", 'did you mean "backends[].url" or "opencode.url"?'),
        ("global: {}", 'global: is an unknown key here; did you mean "rate_limit.global"?'),
        ("global_: {}", "global_: is an unknown key; want one of: server,"),
        ("load_balance: x", 'did you mean "routing.load_balance"?'),
        ("enabled: x", 'did you mean "auth.enabled" or "rate_limit.enabled"?'),
        ("log: {lvl: info}", 'log.lvl: is an unknown key; did you mean "level"?'),
        (
            "log: {zzz: info}",
            "log.zzz: is an unknown key; want one of: level, format, output, f",
        ),
        ("log: {file: {zzz: 1}}", "log.file.zzz: is an unknown key; want one of: path"),
        (
            "rate_limit: {global_: {}}",
            'rate_limit.global_: is an unknown key; did you mean "global"?',
        ),
        (
            "rate_limit: {per_model: {qwen: {max_concurent: 5}}}",
            'rate_limit.per_model.qwen.max_concurent: is an unknown key; did you mean "max_conc',
        ),
    ],
)
def test_unknown_keys(problems: Problems, text: str, expected: str) -> None:
    """The nearest key, the place where it belongs, or all that may stand there."""
    (told,) = problems(START + text)
    assert told.startswith("x.yaml:3: ")
    assert expected in told


@pytest.mark.parametrize("name", LATER_SECTIONS)
def test_later_sections_are_refused(problems: Problems, name: str) -> None:
    """Each is not available yet, whatever is in it."""
    (told,) = problems(f"{START}{name}: {{zzz: 1}}")
    assert told == f"x.yaml:3: {name}: is not available yet: {LATER_SECTIONS[name]}"


LATER_PLACES = {
    "Retry": "routing: {{retry: {{{}: 1}}}}",
    "Routing": "routing: {{{}: 1}}",
    "Logging": "logging: {{{}: 1}}",
}


@pytest.mark.parametrize(
    ("cls", "name"), [(cls, name) for cls, names in LATER_KEYS.items() for name in names]
)
def test_later_keys_are_refused(problems: Problems, cls: type, name: str) -> None:
    """Each is not available yet, in its own place."""
    text = "backends: [{name: a, url: 'demo:'}]\n" + LATER_PLACES[cls.__name__].format(name)
    assert any(
        told.endswith(f"{name}: is not available yet: {LATER_KEYS[cls][name]}")
        for told in problems(text)
    )


def test_a_key_that_was_misspelt_is_not_missing_too(problems: Problems) -> None:
    """One mistake, one problem."""
    (told,) = problems("backends: [{nane: a, url: 'demo:'}]\nauth: {enabled: false}\n")
    assert told == 'x.yaml:1: backends[0].nane: is an unknown key; did you mean "name"?'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log: {level: 5}", '5 is not text; put it in quotes: "5"; want one of: debug,'),
        (
            "log: {level: inf}",
            '"inf" cannot stand here; want one of: debug, info, warning, err',
        ),
        ("log: {level: inf}", 'did you mean "info"?'),
        ("log: []", "a list is not a mapping; want keys of: level, format, output, file"),
        ("models: [{id: no}]", 'no is not text; put it in quotes: "no"'),
        ("models: [{id: 0x10}]", '0x10 is not text; put it in quotes: "0x10"'),
        ("models: [{id: 1.10}]", '1.10 is not text; put it in quotes: "1.10"'),
        ("models: [{id: }]", "null is not text; want text"),
        ("models: {id: a}", "a mapping is not a list; want one, each item after a dash"),
        ("models: [{id: m, aliases: a}]", '"a" is not a list'),
        (
            "server: {cors: {enabled: 'yes'}}",
            '"yes" is not true or false; want true or false',
        ),
        ("server: {listen: 8000}", '8000 is not an address; want ":8000"'),
        ("server: {max_connections: 0}", "0 is too small; want at least 1"),
        ("server: {max_header_bytes: 5}", "5 is too small; want at least 1024 bytes"),
        ("usage: {spool_max_size: 1MiB}", '"1MiB" is too small; want at least 16777216 bytes'),
        (
            "server: {workers: many}",
            '"many" is not a whole number; want one of at least 1, or "au',
        ),
        ("health_check: {interval: 5x}", '"5x" is not a duration; want a duration such as 500ms, '),
        ("health_check: {interval: 1ms}", '"1ms" is too small; want at least 0.01 seconds'),
        ("server: {trusted_proxies: [x]}", '"x" is not a network; want an IP network'),
        ("server: {trusted_proxies: ['unix:x']}", '192.0.2.7, or "unix:"'),
        (
            "rate_limit: {global: {max_concurrent: -1}}",
            "rate_limit.global.max_concurrent: -1 is too small; want at least 0",
        ),
        (
            "rate_limit: {global: 5}",
            "rate_limit.global: 5 is not a mapping; want keys of: requests_per_second, ",
        ),
        (
            "rate_limit: {per_model: {qwen: {max_concurrent: many}}}",
            'rate_limit.per_model.qwen.max_concurrent: "many" is not a whole number; want one of',
        ),
        (
            "rate_limit: {per_model: {qwen: 5}}",
            "rate_limit.per_model.qwen: 5 is not a mapping; want keys of: requests_per_second, ",
        ),
        ("rate_limit: {per_model: [qwen]}", "rate_limit.per_model: a list is not a mapping"),
        (
            "rate_limit: {global: {tokens_per_minute: 9007199254740993}}",
            "9007199254740993 is too large; want at most 9007199254740992",
        ),
    ],
)
def test_values_seen_and_wanted(problems: Problems, text: str, expected: str) -> None:
    """Values are shown as they stand in the file."""
    (told,) = problems(START + text)
    assert expected in told


@pytest.mark.parametrize(
    "text",
    [
        "api_keys: sk-s3cret",
        "api_keys: [sk-s3cret]",
        "api_keys: [{sk-s3cret: x}]",
        "api_keys: {sk-s3cret: x}",
        "api_keys: [{key: 0x5ec3e7}]",
        "api_keys: [{key: [sk-s3cret]}]",
        "auth: sk-s3cret",
        "auth: {pipeline: [{name: s, type: static, static: sk-s3cret}]}",
        "auth: {pipeline: [{name: s, type: static, static: {keys: [sk-s3cret]}}]}",
        "auth: {pipeline: [{name: s, type: static, static: {keys: [{key: 's3 cret'}]}}]}",
        "auth: {pipeline: [{name: s, type: static, static: {keys: [{key: s3cre}]}}]}",
        "auth: {pipeline: [{name: s, type: static, static: {keys: [{key: 's3${X}'}]}}]}",
        "auth: {pipeline: [{name: s, type: static, static: {keys: [{key: '${X:s3cret}'}]}}]}",
        'backends: [{name: a, url: "demo:", api_key: "s3cret\\0"}]',
        'backends: [{name: a, url: "demo:", api_key: "s3cret\\n"}]',
        'backends: [{name: a, url: "demo:", headers: s3cret}]',
        'backends: [{name: a, url: "demo:", headers: {X-A: 0x5ec3e7}}]',
        'backends: [{name: a, url: "demo:", headers: {X-A: "s3cret\\n"}}]',
        'backends: [{name: a, url: "http://u:s3cret@h"}]',
        'backends: [{name: a, url: "http://h?key=s3cret"}]',
        "auth: {pipeline: [{name: w, type: webhook, webhook: {url: 'ftp://u:s3cret@h'}}]}",
        "auth: {pipeline: [{name: w, type: webhook, webhook: {url: 'x?key=s3cret'}}]}",
        "auth: {pipeline: [{name: w, type: webhook, webhook: {headers: {X-A: 0x5ec3e7}}}]}",
        "auth: {pipeline: [{name: w, type: webhook, webhook: {headers: [s3cret]}}]}",
        'auth: {pipeline: [{name: w, type: webhook, webhook: {headers: {X-A: "s3cret\\n"}}}]}',
        "storage: {databases: [{name: d, driver: mysql, dsn: 'mysql://u:s3cret@/'}]}",
        "storage: {databases: [{name: d, driver: postgres, dsn: 's3cret'}]}",
        "storage: {databases: [{name: d, dsn: 's3cret'}]}",
        "storage: {databases: [{name: d, password: 0x5ec3e7}]}",
        "storage: {databases: [s3cret]}",
        "storage: {caches: [{name: c, password: 0x5ec3e7}]}",
        "storage: {caches: [{name: c, addr: 'redis://u:s3cret@h:1'}]}",
        "storage: s3cret",
        "admin: {token: s3cret}",
        "admin: {token: [s3cret]}",
        "admin: {token: 0x5ec3e7}",
        "admin: {token: 's3cret s3cret s3cret'}",
        "admin: {key_secret: s3cret}",
        "admin: s3cret",
    ],
)
def test_secrets_are_never_shown(problems: Problems, text: str) -> None:
    """Not even where they do not belong."""
    told = problems(text)
    assert told
    assert not [one for one in told if "s3" in one or "5ec3e7" in one]


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        cattrs.ClassValidationError("", [ZeroDivisionError()], Auth),
        cattrs.IterableValidationError("", [ZeroDivisionError()], tuple),
        cattrs.ClassValidationError(
            "", [cattrs.ClassValidationError("", [ZeroDivisionError()], Auth)], Config
        ),
    ],
)
def test_faults_of_the_program_are_no_problems_of_the_file(error: Exception) -> None:
    """They come out as they are."""
    with pytest.raises((ZeroDivisionError, cattrs.ClassValidationError)):
        list(failures(error, Findings("")))
