"""Token buckets."""

import pytest

from gateway.errors import Problem
from gateway.limits import Buckets
from gateway.settings import Limit


def test_what_is_refused_takes_nothing_and_time_fills_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.limits.time.monotonic", lambda: now)
    buckets = Buckets("orders", Limit(2, 10), 100)
    assert buckets.take("ann", 7) == 3

    with pytest.raises(Problem) as refusal:
        buckets.take("ann", 4)

    assert refusal.value.retry_after_seconds == pytest.approx(0.5)
    assert buckets.take("ann", 3) == 0
    assert buckets.take("bob") == 9
    now = 101.0
    assert buckets.take("ann", 2) == 0
    now = 1_000.0
    assert buckets.take("ann") == 9


def test_there_are_never_more_buckets_than_allowed() -> None:
    buckets = Buckets("requests", Limit(1, 2), 10)
    for key in range(100):
        buckets.take(key)

    assert len(buckets._buckets) == 10
