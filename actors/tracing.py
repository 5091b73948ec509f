"""Spans of OpenTelemetry, sampled, sent to a collector by OTLP over HTTP. Imported only where otlp_endpoint is set.

    request        the gateway's, in its caller's trace if he sends a `traceparent`
      authenticate, read, market, answer      an order's stages there
      <file.query>                            each statement that it waited for
      market wait, market commit              in the market's process, which is told the parent beside the command
    chain <kind>   an effect of the chain, from its first attempt to its end, its states as events; in no request

Spans of stages are made when a request is over, from the times that are taken anyway. A thread of the library sends
them in batches, and forgets what does not fit into its queue. Source: docs/decisions/0048.
"""

import re
import time
from collections.abc import Sequence
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bind_contextvars

QUEUE_MAX: Final = 4_096
EFFECTS_MAX: Final = 1_024  # of the chain that are under way; of more, the oldest are told as far as they came
SEND_SECONDS: Final = 2.0
SEND_SECONDS_MAX: Final = 5.0
_NAMED: Final = re.compile(r"/\* ([\w.]+) \*/")  # as every statement of ours opens
_propagator: Final = TraceContextTextMapPropagator()

Begun = tuple[Span, Any, int]  # with its token, and when it began, in nanoseconds


class Tracing:
    """Of one process."""

    def __init__(self, part: str, endpoint: str, sample: float, exporter: SpanExporter | None = None) -> None:
        """`endpoint`: of a collector, such as http://collector:4318; `sample`: which share of requests, 0 to 1."""
        resource = Resource.create({"service.name": "wattbook", "service.instance.id": part})
        self.provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample)), resource=resource)
        self.provider.add_span_processor(
            BatchSpanProcessor(
                exporter or OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces", timeout=SEND_SECONDS_MAX),
                max_queue_size=QUEUE_MAX,
                schedule_delay_millis=SEND_SECONDS * 1_000,
            )
        )
        self._tracer = self.provider.get_tracer("wattbook")
        self._effects: dict[int, Span] = {}

    def begin(self, request_id: str, method: str, parent: str) -> Begun:
        """A request has come; what follows in its task is within its span. `parent`: its `traceparent`, or empty."""
        within = _propagator.extract({"traceparent": parent}) if parent else context.Context()
        began_ns = time.time_ns()
        said = {"http.request.method": method, "wattbook.request_id": request_id}
        span = self._tracer.start_span(method, within, SpanKind.SERVER, said, start_time=began_ns)
        told = span.get_span_context()
        if told.trace_flags.sampled:
            bind_contextvars(trace_id=f"{told.trace_id:032x}")
        return span, context.attach(trace.set_span_in_context(span)), began_ns

    def end(
        self,
        begun: Begun,
        route: str,
        status: int,
        order: tuple[int, int, int] | None,
        stages: Sequence[tuple[str, float]],
    ) -> None:
        """The request is answered. `stages`: names and seconds, one after the other, the last one ends now."""
        span, token, began_ns = begun
        context.detach(token)
        if not span.is_recording():
            return
        now_ns = time.time_ns()
        at_ns = now_ns - int(sum(seconds for _, seconds in stages) * 1e9)
        within = trace.set_span_in_context(span)
        for name, seconds in stages:
            ended_ns = at_ns + int(seconds * 1e9)
            # Stages have a clock of their own, which was read a moment apart from this one.
            self._tracer.start_span(name, within, start_time=max(began_ns, at_ns)).end(max(began_ns, ended_ns))
            at_ns = ended_ns
        span.update_name(f"{span.attributes['http.request.method']} {route}")  # type: ignore[attr-defined]
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        if order is not None:
            span.set_attributes({"wattbook.order_id": f"{order[0]}-{order[1]}", "wattbook.sequence": order[2]})
        span.end(now_ns)

    def carried(self) -> str:
        """The `traceparent` of what is going on in this task, if it is sampled; else empty."""
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return ""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier["traceparent"]

    def committed(self, parent: str, market: str, waited: float, commit: float) -> None:
        """In a market: a traced command is durable now, after waiting and then being committed for so many seconds."""
        within = _propagator.extract({"traceparent": parent})
        now_ns = time.time_ns()
        began_ns = now_ns - int(commit * 1e9)
        said = {"wattbook.market": market}
        self._tracer.start_span("market wait", within, attributes=said, start_time=began_ns - int(waited * 1e9)).end(
            began_ns
        )
        self._tracer.start_span("market commit", within, attributes=said, start_time=began_ns).end(now_ns)

    def moved(self, kind: str, number: int, state: str, signature: str, is_end: bool) -> None:
        """In the submitter: what the chain must be told, by its number in the outbox, has come into this state."""
        span = self._effects.pop(number, None)
        if span is None:
            if len(self._effects) >= EFFECTS_MAX:
                self._effects.pop(next(iter(self._effects))).end()
            said = {"wattbook.submission": number}
            span = self._tracer.start_span(f"chain {kind}", context.Context(), attributes=said)
        span.add_event(state, {"signature": signature})
        if is_end:
            span.end()
        else:
            self._effects[number] = span

    def queried(self, record: Any) -> None:
        """asyncpg's query logger: a statement has ended. Its values are not told."""
        if not trace.get_current_span().is_recording():
            return
        named, now_ns = _NAMED.search(record.query), time.time_ns()
        span = self._tracer.start_span(
            named[1] if named else "query",
            kind=SpanKind.CLIENT,
            attributes={"db.system.name": "postgresql"},
            start_time=now_ns - int(record.elapsed * 1e9),
        )
        if record.exception is not None:
            span.set_status(trace.StatusCode.ERROR, type(record.exception).__name__)
        span.end(now_ns)
