"""When requests are to leave. Seen to fail for: a surge that takes the place of the calm after it."""

import pytest

from bench.load import SECOND_NS, Plan


def leaving(plan: Plan) -> list[float]:
    """Seconds from the beginning, of all requests."""
    return [plan.intended_ns(number) / SECOND_NS for number in range(plan.total)]


@pytest.mark.parametrize("seconds", [2.0, 5.0, 12.0])
def test_without_surges_requests_leave_evenly(seconds: float) -> None:
    plan = Plan("", 50, seconds)

    assert leaving(plan) == pytest.approx([number / 50 for number in range(int(50 * seconds))])


def test_a_surge_fills_the_first_of_five_seconds() -> None:
    at = leaving(Plan("", 100, 10.0, surge=10))

    per_second = [sum(second <= one < second + 1 for one in at) for second in range(10)]
    assert per_second == [1_000, 100, 100, 100, 100] * 2
    assert at == sorted(at)
