"""An effect of the chain is one span, however many times it is tried; what never ends is bounded.

Seen to fail for: a span for each state, effects without a bound.
"""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors import tracing
from actors.tracing import Tracing


def spans_of(made: Tracing, kept: InMemorySpanExporter) -> list[tuple[str, list[str]]]:
    made.provider.force_flush()
    return [(span.name, [event.name for event in span.events]) for span in kept.get_finished_spans()]


def test_an_effect_is_one_span_with_its_states() -> None:
    kept = InMemorySpanExporter()
    made = Tracing("chain-submitter", "", 1.0, kept)

    for state in ("signed", "sent", "expired", "signed", "sent", "confirmed", "finalized"):
        made.moved("mint", 7, state, "signature", state == "finalized")
    made.moved("mint", 8, "signed", "other", False)

    states = ["signed", "sent", "expired", "signed", "sent", "confirmed", "finalized"]
    assert spans_of(made, kept) == [("chain mint", states)]
    made.provider.shutdown()


def test_effects_that_do_not_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EFFECTS_MAX", 3)
    kept = InMemorySpanExporter()
    made = Tracing("chain-submitter", "", 1.0, kept)

    for number in range(5):
        made.moved("settle", number, "signed", "", False)

    assert spans_of(made, kept) == [("chain settle", ["signed"])] * 2
    assert len(made._effects) == 3
    made.provider.shutdown()
