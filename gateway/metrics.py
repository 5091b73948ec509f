"""The gateway's Prometheus metrics, with their units. Labels are bounded: route templates, methods, statuses."""

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


Observe = Callable[[float], None]
Gather = Callable[[Histogram, tuple[float, ...]], Observe]


def at_once(histogram: Histogram, _bounds: tuple[float, ...]) -> Observe:
    """Each value straight into the histogram."""
    return histogram.observe


class GatewayMetrics:
    """`gather` makes of a histogram with its labels what takes its values: some thousand a second come."""

    def __init__(self, registry: CollectorRegistry, gather: Gather = at_once) -> None:
        self._seconds = Histogram(
            "wattbook_http_request_seconds",
            "Time from the first byte of a request to the end of its answer",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._gather = gather
        self._observers: dict[tuple[str, str, int], Observe] = {}
        self.sockets = Gauge("wattbook_sockets", "WebSocket connections now", registry=registry)
        self.socket_messages = Counter(
            "wattbook_socket_messages", "WebSocket messages", ["direction"], registry=registry
        )
        self.sockets_lagged = Counter(
            "wattbook_sockets_lagged", "Connections closed because they read too slowly", registry=registry
        )
        self.projection_lags = Counter(
            "wattbook_projection_lags", "Reads answered before the caller's writes were projected", registry=registry
        )
        self.answers = Counter(
            "wattbook_answers", "Analytics and reports by where they came from", ["source"], registry=registry
        )
        self._up = Gauge(
            "wattbook_dependency_up",
            "1 while it answers as it should",
            ["dependency"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._up_seconds = Gauge(
            "wattbook_dependency_seconds",
            "How long its last answer took",
            ["dependency"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._ready = Gauge(
            "wattbook_ready",
            "1 while orders can be placed in every open market",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.received = self.socket_messages.labels("in")
        self.sent = self.socket_messages.labels("out")

    def healthy(self, dependencies: Mapping[str, tuple[bool, float]], *, is_ready: bool) -> None:
        """By dependency: whether it is up, and the seconds of its last answer."""
        self._ready.set(is_ready)
        for name, (is_up, seconds) in dependencies.items():
            self._up.labels(name).set(is_up)
            self._up_seconds.labels(name).set(seconds)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        key = (route, method if method in _METHODS else "OTHER", status)
        observer = self._observers.get(key)
        if observer is None:
            child = self._seconds.labels(key[0], key[1], str(status))
            observer = self._observers[key] = self._gather(child, _SECONDS)
        observer(seconds)
