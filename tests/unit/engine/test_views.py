"""Status as the API shows it."""

import pytest

from engine.messages import EndReason
from engine.views import OrderStatus, status_of


def test_an_open_order_is_partially_filled_once_something_is() -> None:
    assert status_of(0, 0) is OrderStatus.OPEN
    assert status_of(1, 0) is OrderStatus.PARTIALLY_FILLED


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_reason_has_a_status(reason: EndReason) -> None:
    special = {EndReason.FILLED: OrderStatus.FILLED, EndReason.EXPIRED: OrderStatus.EXPIRED}

    assert status_of(1, reason) is special.get(reason, OrderStatus.CANCELLED)
    assert status_of(1, int(reason)) is status_of(1, reason)  # as it comes from a snapshot
