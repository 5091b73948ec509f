"""Writes the Grafana dashboards beside it: `python deploy/grafana/dashboards.py`. A panel is a title, a unit, queries.

The JSON files are what Grafana reads; a test holds them against this file, and each query against a recorded run.
"""

import json
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).with_name("dashboards")
DATASOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT = 8, 8
COLUMNS: Final = 24

Panel = tuple[str, str, dict[str, str]]  # title, Grafana's unit, queries by legend


def quantiles(metric: str, by: str = "", selector: str = "") -> dict[str, str]:
    """p50, p95 and p99 of a histogram."""
    legend = f" {{{{{by}}}}}" if by else ""
    labels = f"le, {by}" if by else "le"
    return {
        f"p{percent}{legend}": f"histogram_quantile({percent / 100}, "
        f"sum by ({labels}) (rate({metric}_bucket{selector}[5m])))"
        for percent in (50, 95, 99)
    }


ORDERS: Final = '{method="POST", route=~"/api/v1/orders(/batch)?"}'
DASHBOARDS: Final[dict[str, list[Panel]]] = {
    "Traders' latency": [
        ("Orders, from first byte to answer", "s", quantiles("wattbook_http_request_seconds", selector=ORDERS)),
        ("Share slower than 100 ms (promise: 5 %)", "percentunit", {"5 min": "wattbook:slow_ratio:rate5m"}),
        ("Orders answered", "reqps", {"orders": f"sum(rate(wattbook_http_request_seconds_count{ORDERS}[5m]))"}),
        (
            "Stages, p95",
            "s",
            {
                "{{stage}}": "histogram_quantile(0.95, sum by (le, stage) "
                "(rate(wattbook_order_stage_seconds_bucket[5m])))"
            },
        ),
        (
            "Stages, mean",
            "s",
            {
                "{{stage}}": "sum by (stage) (rate(wattbook_order_stage_seconds_sum[5m])) "
                "/ sum by (stage) (rate(wattbook_order_stage_seconds_count[5m]))"
            },
        ),
        ("Journal commits", "s", quantiles("wattbook_market_commit_seconds", "market")),
        (
            "Answers by status",
            "reqps",
            {"{{status}}": "sum by (status) (rate(wattbook_http_request_seconds_count[5m]))"},
        ),
        (
            "Requests failed (promise: 0.1 %)",
            "percentunit",
            {"5 min": "wattbook:error_ratio:rate5m", "1 h": "wattbook:error_ratio:rate1h"},
        ),
        (
            "WebSockets",
            "short",
            {
                "connections": "sum(wattbook_sockets)",
                "{{direction}}/s": "sum by (direction) (rate(wattbook_socket_messages_total[5m]))",
            },
        ),
    ],
    "Markets": [
        (
            "Spread, landed (millionths per kWh)",
            "short",
            {"{{market}}": "max by (market) (wattbook_market_spread_micro)"},
        ),
        (
            "Depth, ten best prices",
            "watth",
            {"{{market}} {{side}}": "max by (market, side) (wattbook_market_depth_wh)"},
        ),
        ("Orders in the book", "short", {"{{market}}": "max by (market) (wattbook_market_orders)"}),
        ("Energy traded", "watth", {"{{market}} per hour": "rate(wattbook_market_volume_wh_total[5m]) * 3600"}),
        ("Fills", "short", {"{{market}}/s": "2 * rate(wattbook_market_trades_total[5m])"}),
        (
            "Mean price (per kWh)",
            "short",
            {
                "{{market}}": "rate(wattbook_market_turnover_micro_total[5m]) / 1000 "
                "/ (rate(wattbook_market_volume_wh_total[5m]) > 0)"
            },
        ),
        ("Commands that wait", "short", {"{{market}}": "max by (market) (wattbook_market_waiting)"}),
        (
            "Entries in a commit, mean",
            "short",
            {
                "{{market}}": "rate(wattbook_market_batch_entries_sum[5m]) "
                "/ (rate(wattbook_market_batch_entries_count[5m]) > 0)"
            },
        ),
        ("Open", "short", {"{{market}}": "max by (market) (wattbook_market_open)"}),
        ("Tables behind the journal (entries)", "short", {"{{market}}": "wattbook:follower_behind"}),
        (
            "Welfare (1: what one auction of an epoch's orders is worth)",
            "percentunit",
            {
                "{{market}}, last epoch": "max by (market) (wattbook_market_welfare_ratio)",
                "{{market}}, a day": "wattbook:welfare_ratio:avg1d",
            },
        ),
        ("Draws from the ledger", "s", quantiles("wattbook_market_draw_seconds", "market")),
        ("Ledger transfers", "short", {"per second": "deriv(wattbook_ledger_transfers[5m])"}),
    ],
    "Metering": [
        (
            "Readings",
            "short",
            {
                "accepted": "sum(rate(wattbook_meter_readings_total[5m]))",
                "{{verdict}}": "sum by (verdict) (rate(wattbook_meter_rejected_total[5m]))",
            },
        ),
        ("Oldest open window", "s", {"shard {{shard}}": "max by (shard) (wattbook_meter_window_lag_seconds)"}),
        ("Readings that wait", "short", {"shard {{shard}}": "max by (shard) (wattbook_meter_waiting)"}),
        ("Windows closed", "short", {"shard {{shard}}": "sum by (shard) (rate(wattbook_meter_windows_total[5m]))"}),
        ("A batch", "s", quantiles("wattbook_meter_batch_seconds", "shard")),
        (
            "Refused and begun anew",
            "short",
            {
                "overloaded": "sum(increase(wattbook_meter_overloaded_total[5m])) or vector(0)",
                "reloads": "sum(increase(wattbook_meter_reloads_total[5m])) or vector(0)",
            },
        ),
    ],
    "Chain": [
        ("Lag (slots)", "short", {"slots": "max(wattbook_chain_lag_slots)"}),
        ("Effects not final yet", "short", {"{{lane}} {{state}}": "max by (lane, state) (wattbook_chain_submissions)"}),
        ("Became", "short", {"{{state}}/s": "sum by (state) (rate(wattbook_chain_changes_total[5m]))"}),
        ("Transactions sent", "short", {"per second": "sum(rate(wattbook_chain_sent_total[5m]))"}),
        ("Events of the programs", "short", {"{{state}}/s": "sum by (state) (rate(wattbook_chain_events_total[5m]))"}),
        ("Circuits (0 closed, 2 open)", "short", {"{{endpoint}}": "max by (endpoint) (wattbook_chain_circuit)"}),
        ("Rounds that failed", "short", {"all": "sum(increase(wattbook_chain_faults_total[15m])) or vector(0)"}),
        ("Trades settled, rounds closed", "short", {"{{duty}}": "rate(wattbook_duty_done_total[5m])"}),
        ("Faults of duties", "short", {"{{duty}}": "increase(wattbook_duty_faults_total[15m]) or vector(0)"}),
    ],
    "System": [
        ("Ready", "short", {"ready": "wattbook:ready"}),
        ("Dependencies", "short", {"{{dependency}}": "max by (dependency) (wattbook_dependency_up)"}),
        ("How long dependencies take", "s", {"{{dependency}}": "max by (dependency) (wattbook_dependency_seconds)"}),
        ("Actors", "short", {"{{actor}}": "max by (actor) (wattbook_actor_up)"}),
        (
            "Loop lag, p95",
            "s",
            {"{{part}}": "histogram_quantile(0.95, sum by (le, part) (rate(wattbook_loop_lag_seconds_bucket[5m])))"},
        ),
        ("Ticks", "short", {"{{market}}/s": "rate(wattbook_epoch_clock_ticks_total[2m])"}),
        (
            "PostgreSQL sessions",
            "short",
            {
                "{{state}}": "max by (state) (wattbook_postgres_sessions)",
                "permitted": "max(wattbook_postgres_sessions_max)",
            },
        ),
        (
            "Pools, busy connections",
            "short",
            {"{{part}}": 'sum by (part) (wattbook_postgres_pool_connections{state="busy"})'},
        ),
        ("Oldest transaction", "s", {"age": "max(wattbook_postgres_transaction_seconds)"}),
        ("Size of the database", "bytes", {"bytes": "max(wattbook_postgres_size_bytes)"}),
        ("The follower's writes", "s", quantiles("wattbook_follower_write_seconds", "market")),
        ("Recovery", "s", {"{{market}}": "max by (market) (wattbook_market_recovery_seconds)"}),
    ],
}


def dashboard(title: str, panels: list[Panel]) -> dict[str, Any]:
    return {
        "uid": uid(title),
        "title": f"Wattbook: {title}",
        "tags": ["wattbook"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "panels": [panel(number, *one) for number, one in enumerate(panels)],
    }


def uid(title: str) -> str:
    return "wattbook-" + title.lower().replace("'", "").replace(" ", "-")


def panel(number: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    across = COLUMNS // WIDTH
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": DATASOURCE,
        "gridPos": {"x": number % across * WIDTH, "y": number // across * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": None, "custom": {"fillOpacity": 8}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(queries.items())
        ],
    }


def files() -> dict[Path, str]:
    """Each dashboard's text."""
    return {
        FOLDER / f"{uid(title).removeprefix('wattbook-')}.json": json.dumps(dashboard(title, panels), indent=1) + "\n"
        for title, panels in DASHBOARDS.items()
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, "utf-8")
