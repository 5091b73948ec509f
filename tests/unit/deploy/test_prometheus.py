"""Rules, alerts and dashboards speak of metrics that exist, are explained, and find something in a real run.

`recorded.txt` is what the metrics port answered at the end of `wattbook load` and `wattbook meters simulate`. A metric
that is new since then is missing there: record anew. Welfare is of another run, of a market with epochs of 15 s.

Seen to fail for: a misspelt metric, an alert without a row in the runbook, a fault without an alert, a threshold turned
round, a dashboard edited by hand, a panel whose labels fit nothing.
"""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

import actors.metrics
from gateway.metrics import GatewayMetrics
from tests.support import prometheus

ROOT = Path(__file__).parents[3]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))
MAKER = runpy.run_path(str(GRAFANA / "dashboards.py"))


def rules_of(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: str(rule["expr"]) for rule in rules_of("rules.yml")}
ALERTS = {rule["alert"]: rule for rule in rules_of("alerts.yml")}
PANELS = [
    (path.stem, panel["title"], target["expr"])
    for path in sorted((GRAFANA / "dashboards").glob("*.json"))
    for panel in json.loads(path.read_text("utf-8"))["panels"]
    for target in panel["targets"]
]


def samples_of_the_code() -> set[str]:
    """Every name that a scrape can have."""
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    families = [*registry.collect()]
    for metric in vars(actors.metrics).values():
        if isinstance(metric, MetricWrapperBase):
            families += metric.collect()
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {family.name + end for family in families for end in ends.get(family.type, ("",))}


def names_in(query: str) -> set[str]:
    """The metrics that a query looks at."""
    found: set[str] = set()
    waiting: list[Any] = [promql_parser.parse(query)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, promql_parser.VectorSelector):
            found.add(str(node.name))
        parts = (getattr(node, part, None) for part in ("expr", "lhs", "rhs", "vector_selector", "param"))
        waiting += [part for part in parts if part is not None]
        waiting += getattr(node, "args", None) or []
    return found


@pytest.mark.parametrize(
    ("where", "query"),
    [
        *RECORDED.items(),
        *((name, str(rule["expr"])) for name, rule in ALERTS.items()),
        *((f"{board}: {title}", query) for board, title, query in PANELS),
    ],
)
def test_a_query_asks_for_metrics_that_exist(where: str, query: str) -> None:
    names = names_in(query)

    assert names, where
    assert names - samples_of_the_code() - set(RECORDED) - {"up"} == set()


def test_a_name_that_is_gone_is_found() -> None:
    query = 'sum by (le) (rate(gone_bucket{a="b"}[5m])) > 3 and on () (max(other) or vector(0))'

    assert names_in(query) == {"gone_bucket", "other"}


def rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    section = OPERATIONS.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_alert_has_its_row_in_the_runbook() -> None:
    explained = [re.sub(r"\W", "", row[0]) for row in rows("Alerts")]

    assert explained == list(ALERTS)
    assert all(len(row) == 4 and all(row) for row in rows("Alerts"))


def test_every_fault_that_the_runbook_knows_is_seen_by_an_alert() -> None:
    faults = rows("Faults")

    assert len(faults) >= 13
    for fault in faults:
        named = re.findall(r"`(Wattbook\w+)`", fault[-1])
        assert named, fault[0]
        assert set(named) <= set(ALERTS), fault[0]


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [
        case for path in CASES for test in yaml.safe_load(path.read_text())["tests"] for case in test["alert_rule_test"]
    ]

    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(ALERTS)
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_urgent_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]

    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["runbook_url"].endswith("docs/operations.md#alerts")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_alerts_fire_when_they_should(path: Path) -> None:
    prometheus.run("promtool", "test", "rules", str(path))


def test_promtool_takes_the_configuration() -> None:
    prometheus.run("promtool", "check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_the_dashboards_are_what_their_maker_writes() -> None:
    assert {path.name: path.read_text("utf-8") for path in (GRAFANA / "dashboards").iterdir()} == {
        path.name: text for path, text in MAKER["files"]().items()
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[prometheus.Server]:
    recording = Path(__file__).with_name("recorded.txt").read_text("utf-8")
    with prometheus.recorded(recording, PROMETHEUS / "rules.yml", tmp_path_factory.mktemp("prometheus")) as serving:
        yield serving


@pytest.mark.parametrize(("board", "title", "query"), PANELS)
def test_a_panel_shows_something_of_a_real_run(board: str, title: str, query: str, server: prometheus.Server) -> None:
    if names_in(query) & set(RECORDED):
        server.wait_for(query)

    assert server.series(query), f"{board}: {title}"
