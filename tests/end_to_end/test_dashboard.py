"""The dashboard, and all else that asks for metrics: what is asked for exists."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmproxy.metrics.catalogue import CATALOGUE, Metric
from tests.end_to_end.test_alert_rules import promtool
from tests.services import find_program

ROOT = Path(__file__).resolve().parent.parent.parent
DASHBOARD: dict[str, Any] = json.loads((ROOT / "etc" / "grafana" / "llmproxy.json").read_text())
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF_PROMETHEUS = frozenset(("job", "instance", "le", "hash", "__name__"))
"""Labels that no metric of ours has itself."""

SERVED: dict[str, Metric] = {
    name: metric
    for metric in CATALOGUE
    for name in (
        [metric.name + end for end in ("_bucket", "_sum", "_count")]
        if metric.kind == "histogram"
        else [metric.name]
    )
}
"""Metrics by the names under which they can be asked for."""


def panels() -> list[dict[str, Any]]:
    """Give the panels that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """Give everything that is asked for anywhere, each with where that is."""
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    found += [
        (f"${variable['name']}", variable["definition"])
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ]
    (group,) = yaml.safe_load((ROOT / "etc" / "prometheus" / "alerts.yml").read_text())["groups"]
    found += [(rule["alert"], rule["expr"]) for rule in group["rules"]]
    found += [("docs/monitoring.md", line) for line in documented()]
    return found


def documented() -> list[str]:
    """Give the queries of the documentation."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    (block,) = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    return [line for line in block.splitlines() if not line.startswith("#")]


def metric_names(query: str) -> list[str]:
    """Give the names of metrics in a query."""
    bare = re.sub(r'"[^"]*"', '""', query)
    return re.findall(r"\b(?:llmproxy|process)_\w+", bare)


def label_names(query: str) -> set[str]:
    """Give the names of labels in a query: selected, grouped and joined by."""
    bare = re.sub(r'"[^"]*"', '""', query)
    selected = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", bare)
    grouped = re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", bare)
    asked = re.findall(r"label_values\(.*,\s*(\w+)\)", bare)
    return {*selected, *asked, *(one.strip() for group in grouped for one in group.split(","))}


QUERIES = [
    pytest.param(query, id=f"{place}-{index}") for index, (place, query) in enumerate(queries())
]


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_exists(query: str) -> None:
    """With the labels that are asked for, under the name that it is served by."""
    names = metric_names(query)
    assert names or query.startswith("up{")
    assert set(names) <= set(SERVED)
    labels = {label for name in names for label in SERVED[name].labels}
    assert label_names(query) <= labels | OF_PROMETHEUS


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_legends_name_what_is_grouped_by(panel: dict[str, Any]) -> None:
    """A label in a legend is one that the query keeps."""
    for target in panel["targets"]:
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert legend <= label_names(target["expr"])


def test_every_metric_is_on_the_dashboard() -> None:
    """What is worth counting is worth seeing."""
    shown = {
        SERVED[name].name
        for _, query in queries()[: -len(documented())]
        for name in metric_names(query)
    }
    assert shown == {metric.name for metric in CATALOGUE}


@pytest.mark.skipif(not find_program("promtool"), reason="promtool is not installed")
def test_every_query_is_promql(tmp_path: Path) -> None:
    """Prometheus itself reads them."""
    values = {"$__rate_interval": "5m", "$instance": ".*", "$model": ".*"}
    rules = []
    for index, (_, query) in enumerate(queries()):
        if query.startswith("label_values("):
            continue
        for name, value in values.items():
            query = query.replace(name, value)
        assert "$" not in query
        rules.append({"record": f"r{index}", "expr": query})
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_what_grafana_needs() -> None:
    """A dashboard that can be imported anywhere: all that differs is a variable."""
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "llmproxy"
    assert DASHBOARD["schemaVersion"] >= 39
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "instance", "model"]
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    for variable in DASHBOARD["templating"]["list"][1:]:
        assert variable["datasource"] == DATASOURCE
        assert variable["query"]["query"] == variable["definition"]
        assert (variable["includeAll"], variable["allValue"]) == (True, ".*")


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panels(panel: dict[str, Any]) -> None:
    """Each says what it shows, in a unit, from the chosen source and gateways."""
    assert panel["type"] in ("timeseries", "stat", "state-timeline", "heatmap", "table")
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == DATASOURCE
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEF")[
        : len(panel["targets"])
    ]
    for target in panel["targets"]:
        assert target["datasource"] == DATASOURCE
        for selector in re.findall(r"\b(?:llmproxy|process)_\w+(\{[^}]*\})?", target["expr"]):
            assert 'instance=~"$instance"' in selector
    if panel["type"] in ("timeseries", "stat"):
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_layout() -> None:
    """No two panels have the same id or lie over each other, and all fit into the width."""
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [panel["gridPos"] for panel in everything]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
