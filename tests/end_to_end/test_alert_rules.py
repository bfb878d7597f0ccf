"""The alert rules: each is run by promtool, once where it should be raised and once where not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from tests.services import find_program

PROMETHEUS = Path(__file__).resolve().parent.parent.parent / "etc" / "prometheus"
RULES = PROMETHEUS / "alerts.yml"
HERE = {"job": "llmproxy", "instance": "gw"}
DAY_S = 86_400

pytestmark = pytest.mark.skipif(
    not find_program("promtool"), reason="promtool is not installed (Debian: prometheus)"
)


@attrs.frozen
class Case:
    """What Prometheus sees, and what it should make of it.

    Attributes:
        alert: The alert's name.
        series: Values by series, one a minute; every series is one of the job, and of the instance
            that it names or else of ``gw``.
        minutes: When to look.
        raised: The further labels of each alert that is raised then, and its summary.
    """

    alert: str
    series: Mapping[str, str]
    minutes: int
    raised: tuple[tuple[Mapping[str, str], str], ...] = ()


def requests(outcome: str, status: int = 200) -> str:
    """Name a counter of requests."""
    return (
        f'llmproxy_requests_total{{backend="b",model="m",outcome="{outcome}",'
        f'path="/v1/completions",status="{status}",stream="true"}}'
    )


def first_byte(bound: str) -> str:
    """Name a bucket of streams' first bytes."""
    return f'llmproxy_first_byte_ms_bucket{{backend="b",le="{bound}",model="m",stream="true"}}'


UP, DRAINED = 'llmproxy_backend_up{backend="b"}', 'llmproxy_backend_drained{backend="b"}'
LOST, DAMAGED = "llmproxy_spool_lost_records_total", "llmproxy_spool_damaged_records_total"
WAITING = "llmproxy_spool_waiting_records"
SKIPPED = 'llmproxy_spool_skipped_records_total{reporter="billing"}'
AGE = 'llmproxy_spool_backlog_age_seconds{reporter="billing"}'
DEAD = 'llmproxy_dead_letter_bytes{reporter="billing"}'
DISABLED = 'llmproxy_reporter_disabled{reporter="billing"}'
FAILURE = 'llmproxy_webhook_failure_total{reporter="billing"}'
SUCCESS = 'llmproxy_webhook_success_total{reporter="billing"}'
STALLED = 'llmproxy_stream_alerts_total{backend="b",kind="stalled_stream"}'
LONG = 'llmproxy_stream_alerts_total{backend="b",kind="long_stream"}'
LIMITED = 'llmproxy_limit_refusals_total{limit="requests",scope="key"}'
THROTTLED = 'llmproxy_limit_refusals_total{limit="unknown_keys",scope="address"}'
UNKNOWN = 'llmproxy_rejections_total{code="invalid_api_key",model=""}'
EXPIRY = 'llmproxy_certificate_expiry_timestamp_seconds{certificate="server"}'
OF_B = {"backend": "b"}
OF_BILLING = {"reporter": "billing"}

CASES = (
    Case("LLMProxyDown", {"up": "1 0 0 0"}, 1),
    Case("LLMProxyDown", {"up": "1 0 0 0"}, 2, (({}, "gw does not answer"),)),
    Case("LLMProxyAllBackendsDown", {UP: "0 0 0", 'llmproxy_backend_up{backend="c"}': "1 1 1"}, 2),
    Case(
        "LLMProxyAllBackendsDown",
        {UP: "1 0 0", 'llmproxy_backend_up{backend="c"}': "0 0 0"},
        2,
        (({}, "gw has no inference server"),),
    ),
    Case("LLMProxyBackendDown", {UP: "0 0 0 0 0", DRAINED: "1 1 1 1 1"}, 4),
    Case("LLMProxyBackendDown", {UP: "0 1 0 1 0", DRAINED: "0 0 0 0 0"}, 4),
    Case(
        "LLMProxyBackendDown",
        {UP: "1 0 0 0 0", DRAINED: "0 0 0 0 0"},
        4,
        ((OF_B, "b is down at gw"),),
    ),
    Case("LLMProxyBreakerOpen", {'llmproxy_breaker_state{backend="b"}': "1x10"}, 9),
    Case(
        "LLMProxyBreakerOpen",
        {'llmproxy_breaker_state{backend="b"}': "2x10"},
        9,
        ((OF_B, "b is cut off at gw"),),
    ),
    Case("LLMProxyErrors", {requests("ok"): "0+96x20", requests("timeout"): "0+4x20"}, 15),
    Case(  # what clients do wrong is not the servers' fault, and hides none of theirs
        "LLMProxyErrors", {requests("ok"): "0+5x20", requests("rejected", 401): "0+95x20"}, 15
    ),
    Case(
        "LLMProxyErrors",
        {
            requests("ok"): "0+85x20",
            requests("timeout", 504): "0+5x20",
            requests("truncated"): "0+5x20",
            requests("upstream_error", 502): "0+5x20",
            requests("rejected", 401): "0+900x20",
        },
        15,
        (({"model": "m"}, "15% of the requests for m fail at gw"),),
    ),
    Case(
        "LLMProxySlowFirstByte",
        {
            first_byte("30000"): "0+96x40",
            first_byte("60000"): "0+100x40",
            first_byte("+Inf"): "0+100x40",
        },
        30,
    ),
    Case(
        "LLMProxySlowFirstByte",
        {
            first_byte("30000"): "0+90x40",
            first_byte("60000"): "0+100x40",
            first_byte("+Inf"): "0+100x40",
        },
        30,
        (({"model": "m"}, "One of twenty streams of m waits over 45k ms for its first word"),),
    ),
    Case("LLMProxyQueue", {"llmproxy_queue_waiting": "0 500 0 500 0 500 0 500 0"}, 7),
    Case(
        "LLMProxyQueue",
        {"llmproxy_queue_waiting": "500x10"},
        7,
        (({}, "500 requests wait for a backend at gw"),),
    ),
    Case("LLMProxyStalledStreams", {STALLED: "0 0 1 1 1 1 1 1 1 1 1", LONG: "0+9x20"}, 10),
    Case(
        "LLMProxyStalledStreams",
        {STALLED: "0 0 1 1 5 5 5 5 5 5 5", LONG: "0x20"},
        10,
        ((OF_B, "Streams of b fall silent at gw"),),
    ),
    Case("LLMProxyRefusedByLimits", {requests("ok"): "0+95x40", LIMITED: "0+5x40"}, 35),
    Case(
        "LLMProxyRefusedByLimits",
        {requests("ok"): "0+50x40", requests("rejected", 429): "0+50x40", LIMITED: "0+50x40"},
        35,
        (({}, "Limits refuse 50% of the requests at gw"),),
    ),
    Case(  # somebody who guesses is no matter of limits
        "LLMProxyRefusedByLimits",
        {requests("ok"): "0+50x40", requests("rejected", 429): "0+50x40", THROTTLED: "0+50x40"},
        35,
    ),
    Case("LLMProxyUnknownKeys", {UNKNOWN: "0+6x30"}, 20),
    Case(  # one address: most of what it tries is not even looked up
        "LLMProxyUnknownKeys",
        {UNKNOWN: "0+30x30", THROTTLED: "0+300x30"},
        20,
        (({}, "Unknown keys come again and again at gw"),),
    ),
    Case(
        "LLMProxyUnknownKeys",
        {UNKNOWN: "0+600x30"},
        20,
        (({}, "Unknown keys come again and again at gw"),),
    ),
    Case("LLMProxyStorageDown", {'llmproxy_storage_up{storage="redis one"}': "0 1 0 1 0"}, 4),
    Case(
        "LLMProxyStorageDown",
        {'llmproxy_storage_up{storage="redis one"}': "1 0 0 0 0"},
        4,
        (({"storage": "redis one"}, "redis one does not answer gw"),),
    ),
    Case("LLMProxyUncheckedRequests", {"llmproxy_unchecked_requests_total": "7x20"}, 10),
    Case(
        "LLMProxyUncheckedRequests",
        {"llmproxy_unchecked_requests_total": "0x8 1x10"},
        10,
        (({}, "Requests pass without their limits at gw"),),
    ),
    Case("LLMProxyEventLoopLag", {"llmproxy_event_loop_lag_worst_seconds": "0.9 0.9 0x10"}, 9),
    Case(
        "LLMProxyEventLoopLag",
        {"llmproxy_event_loop_lag_worst_seconds": "0.9x10"},
        9,
        (({}, "The event loop of gw is late by 900ms"),),
    ),
    Case("LLMProxyFileDescriptors", {"process_open_fds": "70x10", "process_max_fds": "100x10"}, 9),
    Case(
        "LLMProxyFileDescriptors",
        {"process_open_fds": "90x10", "process_max_fds": "100x10"},
        9,
        (({}, "gw uses 90% of its file descriptors"),),
    ),
    Case("LLMProxySpoolBacklog", {AGE: "0+60x30"}, 29),
    Case(
        "LLMProxySpoolBacklog",
        {AGE: "7200x10"},
        9,
        ((OF_BILLING, "Usage records for billing are 2h 0m 0s old at gw"),),
    ),
    Case("LLMProxyRecordsWait", {WAITING: "0 7 0 7 0"}, 4),
    Case(
        "LLMProxyRecordsWait",
        {WAITING: "0 7 7 7 7"},
        4,
        (({}, "7 usage records wait in memory at gw"),),
    ),
    Case("LLMProxyRecordsLost", {LOST: "3x30", DAMAGED: "3x30"}, 20),
    Case(
        "LLMProxyRecordsLost",
        {LOST: "0x15 1x15", DAMAGED: "0x30"},
        20,
        (({}, "Usage records are lost at gw"),),
    ),
    Case(
        "LLMProxyRecordsLost",
        {LOST: "0x30", DAMAGED: "0x15 1x15"},
        20,
        (({}, "Usage records are lost at gw"),),
    ),
    Case(
        "LLMProxyRecordsLost",
        {LOST: "0x15 1x15", DAMAGED: "0x30", SKIPPED: "0x15 1x15"},
        20,
        (({}, "Usage records are lost at gw"),),
    ),
    Case(
        "LLMProxyRecordsLost",
        {LOST: "0x30", SKIPPED: "0x15 1x15"},
        20,
        (({}, "Usage records are lost at gw"),),
    ),
    Case(  # found at a start, after a while without the daemon: the first that is seen of it
        "LLMProxyRecordsLost",
        {LOST: "_x20 0x10", SKIPPED: "_x20 7x10"},
        25,
        (({}, "Usage records are lost at gw"),),
    ),
    Case("LLMProxyRecordsLost", {LOST: "_x20 0x40", SKIPPED: "_x20 7x40"}, 50),
    Case("LLMProxyDeadLetters", {DEAD: "0 0 500 500 0 0"}, 5),
    Case(  # hours later, and after a restart
        "LLMProxyDeadLetters",
        {DEAD: "0x15 100x100"},
        100,
        ((OF_BILLING, "billing has given usage records up at gw"),),
    ),
    Case("LLMProxyReporterDisabled", {DISABLED: "0x5"}, 4),
    Case(
        "LLMProxyReporterDisabled",
        {DISABLED: "0 0 1 1 1"},
        3,
        ((OF_BILLING, "billing wants no more usage records from gw"),),
    ),
    # It is behind, and takes some; it fails, and is not behind; it waits for a long interval.
    Case("LLMProxyWebhookFailing", {FAILURE: "0+5x40", SUCCESS: "0+1x40", AGE: "2000x40"}, 35),
    Case("LLMProxyWebhookFailing", {FAILURE: "0+5x40", SUCCESS: "7x40", AGE: "0+9x40"}, 35),
    Case("LLMProxyWebhookFailing", {FAILURE: "0x40", SUCCESS: "0x40", AGE: "0+60x40"}, 35),
    Case(
        "LLMProxyWebhookFailing",
        {FAILURE: "0+1x40", SUCCESS: "7x40", AGE: "0+60x40"},
        35,
        ((OF_BILLING, "The webhook billing takes nothing from gw"),),
    ),
    Case(  # tries have become rare: one an hour
        "LLMProxyWebhookFailing",
        {FAILURE: "0 1 3 5 6 7x60 8x60 9x60", SUCCESS: "7x200", AGE: "0+60x200"},
        180,
        ((OF_BILLING, "The webhook billing takes nothing from gw"),),
    ),
    Case("LLMProxyCertificateExpires", {EXPIRY: f"{30 * DAY_S}x90"}, 80),
    Case(
        "LLMProxyCertificateExpires",
        {EXPIRY: f"{7 * DAY_S + 80 * 60}x90"},
        80,
        (({"certificate": "server"}, "server expires in 7d 0h 0m 0s at gw"),),
    ),
    Case(
        "LLMProxyConfigurationsDiffer",
        {
            'llmproxy_config_hash{instance="a"}': "5x60",
            'llmproxy_config_hash{instance="b"}': "5x60",
        },
        50,
    ),
    Case(
        "LLMProxyConfigurationsDiffer",
        {
            'llmproxy_config_hash{instance="a"}': "5x60",
            'llmproxy_config_hash{instance="b"}': "6x60",
        },
        50,
        (({"instance": ""}, "Gateways of llmproxy run with different configurations"),),
    ),
    Case("LLMProxyConfigReloadFailed", {"llmproxy_config_last_reload_successful": "0x4 1x30"}, 20),
    Case(
        "LLMProxyConfigReloadFailed",
        {"llmproxy_config_last_reload_successful": "1x10 0x20"},
        20,
        (({}, "gw could not reload its configuration"),),
    ),
)


def rules() -> dict[str, dict[str, Any]]:
    """Give the rules by their alerts' names."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def placed(series: str) -> str:
    """Put the job and the instance on a series."""
    name, _, labels = series.removesuffix("}").partition("{")
    here = ['job="llmproxy"']
    if "instance=" not in labels:
        here.append('instance="gw"')
    return f"{name}{{{','.join([*filter(None, [labels]), *here])}}}"


def written(case: Case) -> dict[str, Any]:
    """Write a case as promtool reads it."""
    rule = rules()[case.alert]
    raised = [
        {
            "exp_labels": {
                name: value for name, value in {**HERE, **rule["labels"], **labels}.items() if value
            },
            "exp_annotations": {
                "summary": summary,
                "description": rule["annotations"]["description"],
            },
        }
        for labels, summary in case.raised
    ]
    return {
        "interval": "1m",
        "input_series": [
            {"series": placed(series), "values": values} for series, values in case.series.items()
        ],
        "alert_rule_test": [
            {"alertname": case.alert, "eval_time": f"{case.minutes}m", "exp_alerts": raised}
        ],
    }


def promtool(*arguments: str) -> str:
    """Run promtool; it must be content. Give what it says."""
    done = subprocess.run(
        [find_program("promtool"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_rules_are_rules() -> None:
    """Prometheus takes the file, and the example that names it."""
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", str(RULES))
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_each_is_raised_when_it_should_be_and_only_then(tmp_path: Path) -> None:
    """All cases in one run."""
    file = tmp_path / "cases.yml"
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "30s",
        "tests": [written(case) for case in CASES],
    }
    file.write_text(yaml.safe_dump(tests))
    promtool("test", "rules", str(file))


def test_each_has_its_cases() -> None:
    """One in which it is raised, and one in which it is not."""
    for raises in (True, False):
        assert {case.alert for case in CASES if bool(case.raised) is raises} == set(rules())


@pytest.mark.parametrize("name", rules())
def test_each_says_what_to_do(name: str) -> None:
    """How bad it is, what happened, and what can be done."""
    rule = rules()[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert len(rule["annotations"]["description"]) > 80


def test_the_documentation_has_them_all() -> None:
    """With their severities, in the order of the file."""
    text = (PROMETHEUS.parent.parent / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(LLMProxy\w+)` \| (\w+) \| .+ \|$", text, re.MULTILINE)
    assert rows == [(name, rule["labels"]["severity"]) for name, rule in rules().items()]
