"""A circuit breaker: after `failures_max` failures in a row an endpoint is left alone, then asked once, then trusted.

    CLOSED --failures_max in a row--> OPEN --open_seconds--> HALF_OPEN --success--> CLOSED
                                        ^------failure----------+

Time comes in as seconds of any clock that does not go back.
"""

from enum import IntEnum


class Circuit(IntEnum):
    """Its number is the metric's value."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    def __init__(self, failures_max: int, open_seconds: float) -> None:
        self._failures_max = failures_max
        self._open_seconds = open_seconds
        self._failures = 0
        self._opened: float | None = None
        self._probing = False

    def state(self, now: float) -> Circuit:
        if self._opened is None:
            return Circuit.CLOSED
        return Circuit.HALF_OPEN if now - self._opened >= self._open_seconds else Circuit.OPEN

    def may_ask(self, now: float) -> bool:
        """Whether a request may go out now, in HALF_OPEN one at a time. Each yes is followed by one of those below."""
        match self.state(now):
            case Circuit.CLOSED:
                return True
            case Circuit.HALF_OPEN if not self._probing:
                self._probing = True
                return True
        return False

    def succeeded(self) -> None:
        self._failures, self._opened, self._probing = 0, None, False

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._failures >= self._failures_max:  # a probe's failure too: none before it is forgotten
            self._opened = now
        self._probing = False

    def gave_up(self) -> None:
        """The request ended without telling anything about the endpoint, as when its caller was cancelled."""
        self._probing = False
