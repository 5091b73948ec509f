"""The operators' page: one look at health, markets, actors, queues, lags and the last faults.

`/status` is a page without anything in it, for whoever opens it; what it shows it asks of `/api/v1/admin/status`, as
the admin who logs in to it. It loads nothing from any other host.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Response, get
from msgspec import Struct

from engine.units import TimeUs
from gateway.documentation import policy_of
from gateway.edge import open_document
from gateway.health import HealthReport
from gateway.instants import format_instant
from gateway.requests import GatewayRequest
from gateway.wire import Instant

_PAGE: Final = Path(__file__).with_name("status.html").read_bytes()
_POLICY: Final = policy_of(_PAGE)
_SHOWN: Final = ("market", "state", "detail", "address", "up", "faults", "pid", "waiting")


class MarketStatus(Struct, frozen=True):
    """`waiting`: commands in the queue; `behind`: entries that the tables do not show yet, null when not known."""

    symbol: str
    up: bool
    state: str
    phase: str
    sequence: int
    behind: int | None
    open_orders: int
    participants: int
    waiting: int
    recovered_seconds: float


class ActorStatus(Struct, frozen=True):
    """`faults`: how often it stopped answering; `figures`: what it says of itself beyond that."""

    name: str
    up: bool
    state: str
    detail: str
    address: str
    pid: int | None
    waiting: int | None
    faults: int
    figures: dict[str, Any]


class FaultStatus(Struct, frozen=True):
    """`back_at`: null while it lasts."""

    actor: str
    at: Instant
    back_at: Instant | None
    why: str


class ChaosStatus(Struct, frozen=True):
    """The last run of `make chaos`, of an exchange of its own: faults injected by kind, and what was violated."""

    seed: int
    began_at: Instant
    seconds: float
    faults: dict[str, int]
    acknowledged: int
    violations: list[str]


class ExchangeStatus(Struct, frozen=True):
    """`supervised`: whether the supervisor answered; without it there are no actors and markets here."""

    at: Instant
    health: HealthReport
    supervised: bool
    markets: list[MarketStatus]
    actors: list[ActorStatus]
    faults: list[FaultStatus]
    chaos: ChaosStatus | None


@get("/status", include_in_schema=False, media_type="text/html")
async def status_page(request: GatewayRequest) -> Response[bytes]:
    """For people; machines read /api/v1/admin/status."""
    open_document(request.scope, _POLICY)
    return Response(_PAGE, media_type="text/html")


@get("/api/v1/admin/status", tags=["operations"])
async def exchange_status(request: GatewayRequest) -> ExchangeStatus:
    """Health, markets, actors and the last faults, newest first."""
    gateway = request.gateway
    health = await gateway.health.report()
    seen = await gateway.supervision()
    actors = {name: one for name, one in seen.items() if isinstance(one, dict)}
    specs = gateway.markets.markets().values()
    followed: dict[int, int] = {}
    with contextlib.suppress(*gateway.outages):  # the page is for when things are down
        followed = dict(await gateway.history.cursor([spec.market_id for spec in specs]))
    return ExchangeStatus(
        at=format_instant(gateway.clock()),
        health=health,
        supervised=bool(actors),
        markets=[
            _market(spec.symbol, actors[f"market-{spec.symbol}"], followed.get(spec.market_id))
            for spec in specs
            if f"market-{spec.symbol}" in actors
        ],
        actors=[_actor(name, one) for name, one in sorted(actors.items())],
        faults=[_fault(one) for one in reversed(seen.get("recent_faults", ()))],
        chaos=await asyncio.to_thread(_chaos, gateway.settings.chaos_report),
    )


def _chaos(report: Path | None) -> ChaosStatus | None:
    """What the file says; None without one, or while it is being written."""
    try:
        return msgspec.json.decode(report.read_bytes(), type=ChaosStatus) if report is not None else None
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _market(symbol: str, said: dict[str, Any], followed: int | None) -> MarketStatus:
    sequence = int(said.get("sequence", 0))
    return MarketStatus(
        symbol=symbol,
        up=bool(said["up"]),
        state=str(said["state"]),
        phase=str(said.get("phase", "")),
        sequence=sequence,
        behind=None if followed is None else max(0, sequence - followed),
        open_orders=int(said.get("open_orders", 0)),
        participants=int(said.get("participants", 0)),
        waiting=int(said.get("waiting", 0)),
        recovered_seconds=float(said.get("recovered_seconds", 0.0)),
    )


def _actor(name: str, said: dict[str, Any]) -> ActorStatus:
    return ActorStatus(
        name=name,
        up=bool(said["up"]),
        state=str(said.get("state", "serving")),
        detail=str(said.get("detail", "")),
        address=str(said.get("address", "")),
        pid=said.get("pid"),
        waiting=said.get("waiting"),
        faults=int(said["faults"]),
        figures={name: value for name, value in said.items() if name not in _SHOWN},
    )


def _fault(said: dict[str, Any]) -> FaultStatus:
    back_us: TimeUs | None = said["back_us"]
    return FaultStatus(
        said["actor"], format_instant(said["at_us"]), None if back_us is None else format_instant(back_us), said["why"]
    )
