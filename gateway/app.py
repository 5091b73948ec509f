"""The gateway as an ASGI application: everything it needs is handed in, nothing is looked up.

`create_app` joins routes, guard, error answers and the edge. The daemon serves it with uvicorn (uvloop, httptools,
websockets-sansio; ws_ping_interval=20, ws_max_size at least `socket_frame_bytes_max`, proxy headers as deployed).
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from litestar import Litestar, Request, Response, Router
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from litestar.routes import HTTPRoute, WebSocketRoute
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from engine.messages import RejectCode
from gateway.accounts import AccountController
from gateway.analytics import AnalyticsController
from gateway.api_keys import ApiKeyController, HeadEndController
from gateway.audit import AuditController
from gateway.chain import ChainController
from gateway.chain_ports import ChainDesk, Oracle, Settlements
from gateway.context import Gateway
from gateway.direct import Direct
from gateway.documentation import openapi_config
from gateway.edge import READS, Edge, request_id_of
from gateway.energy import EnergyController, MeterReadingController
from gateway.epochs import EpochController
from gateway.errors import GatewayCode, Problem, problem_of
from gateway.limits import NotShared, SharedBuckets
from gateway.makers import MakerController, MakerReportController
from gateway.market_admin import MarketAdminController, ZoneController
from gateway.markets import MarketController
from gateway.meters import MeterController
from gateway.metrics import Gather, at_once
from gateway.operations import health, jwks, live, ready
from gateway.oracle import OracleController
from gateway.orders import DeadManController, OrderController
from gateway.permissions import Guard, methods_of, permission_of
from gateway.ports import (
    ApiKeys,
    AuditLog,
    Catalogue,
    Clock,
    Directory,
    Elapsed,
    FirstAnswers,
    History,
    Ledger,
    Makers,
    Markets,
    Metering,
    NoProcesses,
    NoStages,
    People,
    Probe,
    Processes,
    Recurring,
    Risk,
    Spans,
    Stages,
    Supervision,
    Traces,
    Vault,
    Wallets,
    not_supervised,
)
from gateway.processes import ReplacementController
from gateway.rates import RateController
from gateway.readings import ReadingController
from gateway.recurring import RecurringController
from gateway.repeats import Repeats
from gateway.reports import ReportController
from gateway.requests import GatewayRequest, WireResponse
from gateway.risk import KillController, RiskController
from gateway.settings import GatewaySettings
from gateway.settlements import SettlementController, TradeSettlementController
from gateway.status import exchange_status, status_page
from gateway.stream import stream
from gateway.users import AuthController, ProfileController, UserAdminController
from gateway.wallets import WalletController

API: Final = "/api/v1"
_log = structlog.get_logger(__name__)


def create_app(
    *,
    people: People,
    wallets: Wallets,
    vault: Vault,
    api_keys: ApiKeys,
    audit: AuditLog,
    catalogue: Catalogue,
    ledger: Ledger,
    history: History,
    first_answers: FirstAnswers,
    markets: Markets,
    metering: Metering,
    settlements: Settlements,
    oracle: Oracle,
    risk: Risk,
    chain: ChainDesk,
    recurring: Recurring,
    makers: Makers,
    clock: Clock,
    elapsed: Elapsed,
    settings: GatewaySettings,
    shared: SharedBuckets | None = None,
    answers_in: Redis | None = None,
    directory: Directory | None = None,
    probes: Mapping[str, Probe] | None = None,
    registry: CollectorRegistry | None = None,
    stages: Stages | None = None,
    traces: Traces | None = None,
    spans: Spans | None = None,
    gather: Gather = at_once,
    supervision: Supervision = not_supervised,
    processes: Processes | None = None,
    outages: tuple[type[Exception], ...] = (),
    not_needed: frozenset[str] = frozenset({"redis", "directory", "chain", "books"}),
) -> Litestar:
    """`probes`: dependencies by name, for health, of which readiness ignores those that are `not_needed` to trade;
    `outages`: what ports raise when a dependency is down; `answers_in`: where computed answers are kept, if anywhere;
    `supervision`: how the actors are, for operators; `processes`: how theirs are replaced.
    """
    gateway = Gateway(
        people=people,
        wallets=wallets,
        vault=vault,
        directory=directory,
        api_keys=api_keys,
        audit=audit,
        catalogue=catalogue,
        ledger=ledger,
        history=history,
        first_answers=first_answers,
        markets=markets,
        shared=shared or NotShared(),
        metering=metering,
        settlements=settlements,
        oracle=oracle,
        risk=risk,
        recurring=recurring,
        makers=makers,
        answers_in=answers_in,
        chain=chain,
        clock=clock,
        elapsed=elapsed,
        probes=probes or {},
        registry=registry or CollectorRegistry(),
        gather=gather,
        supervision=supervision,
        processes=processes or NoProcesses(),
        outages=outages,
        not_needed=not_needed,
        settings=settings,
    )
    app = application(settings.version)
    app.state["gateway"] = gateway
    _check_table(app)
    direct = Direct(app, _answer_problem)
    app.asgi_handler = Edge(direct, settings, gateway.metrics, stages or NoStages(), traces, spans)
    return app


def application(version: str) -> Litestar:
    """Every route; whom they ask is in the application's state."""
    api = Router(
        API,
        route_handlers=[
            AuthController,
            ProfileController,
            ApiKeyController,
            WalletController,
            UserAdminController,
            HeadEndController,
            AuditController,
            MarketController,
            EpochController,
            MarketAdminController,
            MakerController,
            MakerReportController,
            ZoneController,
            OrderController,
            DeadManController,
            RecurringController,
            RiskController,
            KillController,
            AccountController,
            MeterController,
            MeterReadingController,
            ReadingController,
            EnergyController,
            SettlementController,
            TradeSettlementController,
            OracleController,
            AnalyticsController,
            ReportController,
            RateController,
            ChainController,
            ReplacementController,
        ],
    )
    return Litestar(
        route_handlers=[api, health, live, ready, exchange_status, status_page, jwks, stream],
        middleware=[Guard, Repeats],
        request_class=GatewayRequest,
        response_class=WireResponse,
        exception_handlers={Exception: _answer_problem},
        lifespan=[_running],
        openapi_config=openapi_config(version),
        request_max_body_size=None,  # the edge counts
        logging_config=None,
        debug=False,
    )


@asynccontextmanager
async def _running(app: Litestar) -> AsyncIterator[None]:
    gateway: Gateway = app.state["gateway"]
    await gateway.start()
    try:
        yield
    finally:
        await gateway.stop()


def _check_table(app: Litestar) -> None:
    """A route without a permission must not come to life; KeyError names it."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for method in route.methods:
                permission_of(method, route.path_format)
        elif isinstance(route, WebSocketRoute):
            permission_of("WEBSOCKET", route.path_format)


def _answer_problem(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    """Every exception as problem details; one that nobody expected is logged and says nothing but its request id."""
    request_id = request_id_of(request.scope)
    read = request.scope.get("method", "GET") in READS
    gateway: Gateway = request.app.state["gateway"]
    problem = _of_litestar(error) or problem_of(error, gateway.outages, read=read)
    if problem.code is GatewayCode.INTERNAL:
        _log.error("request failed", request_id=request_id, path=request.scope["path"], exc_info=error)
    headers = {}
    if problem.retry_after_seconds > 0:
        headers["Retry-After"] = str(problem.retry_after_whole_seconds)
    if problem.code is GatewayCode.METHOD_NOT_ALLOWED:
        headers["Allow"] = methods_of(request.scope["path"])
    if problem.code is GatewayCode.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        problem.body(request_id),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=headers,
    )


def _of_litestar(error: Exception) -> Problem | None:
    """What the framework refuses by itself, in our words."""
    match error:
        case ValidationException():
            found = error.extra if isinstance(error.extra, list) else []
            fields = {
                str(one.get("key", "body")): str(one.get("message", "")) for one in found if isinstance(one, dict)
            }
            return Problem(RejectCode.VALIDATION_FAILED, "the request is not well formed", fields=fields)
        case NotFoundException():
            return Problem(RejectCode.NOT_FOUND, "there is no such resource")
        case MethodNotAllowedException():
            return Problem(GatewayCode.METHOD_NOT_ALLOWED)
        case HTTPException(status_code=status) if 400 <= status < 500:
            return Problem(RejectCode.VALIDATION_FAILED, "the request is not well formed")
        case _:
            return None
