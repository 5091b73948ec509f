"""A running gateway for each test, and people who are logged in to it."""

from collections.abc import AsyncIterator, Iterator
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar
from litestar.datastructures import State
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from engine.market import MarketSpec
from engine.market import Path as GridPath
from gateway.app import application, create_app
from gateway.context import Gateway
from gateway.limits import SharedBuckets
from gateway.ports import Directory, Probe, Processes, Spans, Supervision, Traces, not_supervised
from gateway.settings import GatewaySettings
from tests.support.no_chain import NoChain
from tests.unit.gateway.access import MemoryApiKeys, MemoryAuditLog, MemoryPeople
from tests.unit.gateway.memory_answers import MemoryFirstAnswers
from tests.unit.gateway.memory_chain import NoOracle, NoSettlements
from tests.unit.gateway.memory_makers import MemoryMakers
from tests.unit.gateway.memory_meters import memory_metering
from tests.unit.gateway.memory_recurring import MemoryRecurring
from tests.unit.gateway.memory_risk import MemoryRisk
from tests.unit.gateway.memory_wallets import MemoryWallets
from tests.unit.gateway.ports import COSTS, Clock, MemoryCatalogue, MemoryExchange, MemoryHistory

PASSWORD = "sunny-roof-and-battery"
COIN = 1_000_000


class Person:
    """Someone with a token, who calls the API as himself."""

    def __init__(self, world: "World", user_id: int, token: str, refresh_token: str) -> None:
        self._world, self.user_id, self.token, self.refresh_token = world, user_id, token, refresh_token

    async def call(self, method: str, path: str, json: Any = None, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return await self._world.client.request(method, path, json=json, headers=headers, **more)

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.call("GET", path, params=params)

    async def post(self, path: str, json: Any = None, **more: Any) -> httpx.Response:
        return await self.call("POST", path, json, **more)

    async def order(self, side: str, price: str, quantity: str, **more: Any) -> httpx.Response:
        body = {"market": "Z1-SPOT", "side": side, "type": "limit", "price": price, "quantity": quantity, **more}
        return await self.post("/api/v1/orders", body)

    async def placed(self, side: str, price: str, quantity: str, **more: Any) -> dict[str, Any]:
        answer = await self.order(side, price, quantity, **more)
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body


class World:
    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.people: Any = MemoryPeople()
        self.api_keys: Any = MemoryApiKeys()
        self.audit: Any = MemoryAuditLog()
        self.wallets = MemoryWallets()
        self.exchange = MemoryExchange(self.clock)
        self.history = MemoryHistory(self.exchange)
        self.first_answers = MemoryFirstAnswers()
        self.catalogue = MemoryCatalogue(self.exchange)
        self.oracle: Any = NoOracle()
        self.risk: Any = MemoryRisk(self.people)
        self.recurring: Any = MemoryRecurring()
        self.makers: Any = MemoryMakers(self.people)
        self.metering, self.meters, self.readings = memory_metering()
        self.settings = GatewaySettings(
            key_directory=directory / "keys",
            version="1.2.3",
            bcrypt_cost=4,
            bcrypt_cost_lowered_for_tests=True,
            faucet_enabled=True,
            cors_origins=("https://app.example",),
            barrier_seconds_max=0.2,
        )
        self.app: Litestar
        self.client: httpx.AsyncClient

    @property
    def gateway(self) -> Gateway:
        gateway: Gateway = self.app.state["gateway"]
        return gateway

    def build(
        self,
        probes: dict[str, Probe] | None = None,
        registry: CollectorRegistry | None = None,
        shared: SharedBuckets | None = None,
        directory: Directory | None = None,
        supervision: Supervision = not_supervised,
        processes: Processes | None = None,
        traces: Traces | None = None,
        spans: Spans | None = None,
        **changes: Any,
    ) -> Litestar:
        """A new application with these settings changed; what it stands on stays."""
        self.settings = replace(self.settings, **changes)
        self.app = create_app(
            people=self.people,
            wallets=self.wallets,
            vault=self.wallets,
            api_keys=self.api_keys,
            audit=self.audit,
            catalogue=self.catalogue,
            ledger=self.exchange,
            history=self.history,
            first_answers=self.first_answers,
            markets=self.exchange,
            metering=self.metering,
            settlements=NoSettlements(),
            oracle=self.oracle,
            risk=self.risk,
            chain=NoChain(),
            recurring=self.recurring,
            makers=self.makers,
            clock=self.clock,
            elapsed=self.clock.elapsed,
            settings=self.settings,
            shared=shared,
            directory=directory,
            probes=probes,
            registry=registry,
            supervision=supervision,
            processes=processes,
            traces=traces,
            spans=spans,
        )
        transport = httpx.ASGITransport(cast(Any, self.app), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://exchange")
        return self.app

    async def person(self, email: str = "ann@campus.example", role: str = "student", zone: str = "Z1") -> Person:
        """Registered, logged in, with money and energy in the main account."""
        body = {"email": email, "password": PASSWORD, "name": "Ann"}
        answer = await self.client.post("/api/v1/auth/register", json=body)
        assert answer.status_code == 201, answer.text
        user_id = int(answer.json()["id"])
        await self.people.update(user_id, role=role, zone=zone, now_us=self.clock())
        pair = (await self.client.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD})).json()
        await self.exchange.deposit(user_id, "THB", 1_000 * COIN, f"start:{user_id}", self.clock())
        await self.exchange.deposit(user_id, f"energy:{zone}", 1_000_000, f"energy:{user_id}", self.clock())
        return Person(self, user_id, pair["access_token"], pair["refresh_token"])

    async def key(self, person: Person, *scopes: str) -> str:
        """The secret of a new API key of this person."""
        answer = await person.post("/api/v1/users/me/api-keys", {"name": "bot", "scopes": scopes})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["secret"])

    async def by_key(self, secret: str, method: str, path: str, json: Any = None) -> httpx.Response:
        return await self.client.request(method, path, json=json, headers={"X-API-Key": secret})


def spot(symbol: str = "Z1-SPOT", **changes: Any) -> MarketSpec:
    """Zones Z1 and Z2 with domain.md's default costs."""
    paths = tuple(GridPath(a, b, *cost) for (a, b), cost in COSTS.items())
    return replace(MarketSpec(market_id=0, symbol=symbol, zones=("Z1", "Z2"), paths=paths, band_bps=0), **changes)


@pytest.fixture(autouse=True, scope="session")
def routes_made_once() -> Iterator[None]:
    """Each test has an application of its own; their routes are the same, and making them takes a quarter second."""
    made = cache(application)

    def copied(version: str) -> Litestar:
        app = copy(made(version))
        app.state, app.asgi_router = State(), copy(app.asgi_router)
        app.asgi_router.app = app  # whose lifespan it begins
        return app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.app.application", copied)
        yield


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    world.exchange.add(spot())
    world.build()
    await world.gateway.start()
    yield world
    await world.gateway.stop()
    await world.client.aclose()
