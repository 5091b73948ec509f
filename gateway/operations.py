"""What operators and machines ask: is it healthy, which keys sign the tokens."""

from typing import Any

from litestar import Response, get

from gateway.health import Alive, HealthReport
from gateway.requests import GatewayRequest

_HEALTH, _LIVE, _READY = "/health", "/health/live", "/health/ready"


@get([_HEALTH, f"/api/v1{_HEALTH}"], tags=["operations"])
async def health(request: GatewayRequest) -> HealthReport:
    """Each dependency with its state and latency; 200 whatever they are."""
    return await request.gateway.health.report()


@get([_LIVE, f"/api/v1{_LIVE}"], tags=["operations"])
async def live(request: GatewayRequest) -> Alive:
    """The process serves requests."""
    return request.gateway.health.alive


@get([_READY, "/ready", f"/api/v1{_READY}"], tags=["operations"])
async def ready(request: GatewayRequest) -> Response[HealthReport]:
    """200 when orders can be placed in every open market, else 503 with the reasons."""
    report = await request.gateway.health.report()
    return Response(report, status_code=503 if report.reasons else 200)


@get("/.well-known/jwks.json", tags=["operations"])
async def jwks(request: GatewayRequest) -> dict[str, Any]:
    """The public keys that access tokens are signed with (RFC 7517)."""
    return dict(request.gateway.keys.jwks())
