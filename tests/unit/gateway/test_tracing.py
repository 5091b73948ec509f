"""Spans tell where the time of a request went, in its caller's trace, and cost nothing where nobody wants them.

Seen to fail for: a parent that is not looked at, stages that end after the request, a span that stays the current one.
"""

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors.tracing import Tracing
from tests.support.patience import HUNG_SECONDS
from tests.unit.gateway.conftest import World

ORDER = {"market": "Z1-SPOT", "side": "sell", "type": "limit", "price": "3.500", "quantity": "1.000"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector:
    """A tracing whose spans end up here."""

    def __init__(self, sample: float) -> None:
        self._kept = InMemorySpanExporter()
        self.tracing = Tracing("gateway-1", "", sample, self._kept)

    def spans(self) -> dict[str, ReadableSpan]:
        self.tracing.provider.force_flush()
        return {span.name: span for span in self._kept.get_finished_spans()}


async def test_an_order_is_a_span_with_its_stages_in_its_callers_trace(world: World) -> None:
    ann, collector = await world.person(), Collector(0.0)
    world.build(spans=collector.tracing)
    await world.gateway.start()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine-1"}

    placed = await ann.post("/api/v1/orders", ORDER, headers=headers)

    spans = collector.spans()
    request = spans.pop("POST /api/v1/orders")
    assert request.attributes is not None
    assert request.attributes["wattbook.order_id"] == placed.json()["order_id"]
    assert request.attributes["wattbook.request_id"] == "mine-1"
    assert request.attributes["http.response.status_code"] == 201
    assert request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert list(spans) == ["authenticate", "read", "market", "answer"]
    for stage in spans.values():
        assert stage.parent == request.context
        assert request.start_time is not None
        assert stage.start_time is not None
        assert stage.end_time is not None
        assert request.end_time is not None
        assert request.start_time <= stage.start_time <= stage.end_time <= request.end_time
    assert not trace.get_current_span().is_recording()
    await world.gateway.stop()


@pytest.mark.parametrize(("sample", "spans"), [(0.0, 0), (1.0, 1)])
async def test_others_are_traced_by_chance(world: World, sample: float, spans: int) -> None:
    collector = Collector(sample)
    world.build(spans=collector.tracing)

    await world.client.get("/health/live")

    assert len(collector.spans()) == spans
    assert collector.tracing.carried() == ""


def test_where_nobody_traces_nothing_of_it_is_imported() -> None:
    ours = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "actors.tracing")  # Ray itself uses its metrics
    program = (
        f"import sys, recipes, gateway.app, actors.market; print([n for n in sys.modules if n.startswith({ours})])"
    )

    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=HUNG_SECONDS
    )

    assert found.stdout == "[]\n"
