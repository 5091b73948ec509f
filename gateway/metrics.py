"""The gateway's Prometheus metrics, with their units. Labels are bounded: route templates, methods, statuses."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "wattbook_http_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "wattbook_http_request_seconds",
            "Time from the first byte of a request to the end of its answer",
            ["route", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
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
        self.received = self.socket_messages.labels("in")
        self.sent = self.socket_messages.labels("out")

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        key = (route, method if method in _METHODS else "OTHER", status)
        child = self._children.get(key)
        if child is None:
            child = self._requests.labels(key[0], key[1], str(status)), self._seconds.labels(key[0], key[1])
            self._children[key] = child
        child[0].inc()
        child[1].observe(seconds)
