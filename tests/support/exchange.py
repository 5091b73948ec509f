"""An exchange in one process: real market shells, followers and sockets on a real database, without Ray and HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
from msgspec import structs

from actors.clearing import Aside
from actors.clock import clock_us
from actors.dataplane import Secret
from actors.links import Links, Place
from actors.market import Committed, Market, MarketOptions
from actors.persistence import Follower, FollowerOptions
from actors.ports import Draws, Journal
from engine.market import MarketSpec, Phase
from engine.messages import Command, PlaceOrder, Side
from engine.records import AccountBalance, CostRecord, ZoneRecord
from engine.units import MICRO, TimeUs
from engine.views import Answer, GetMarket, MarketView, OrderAnswer
from persistence.catalogue import PostgresCatalogue
from persistence.journal import PostgresJournal
from persistence.ledger import PostgresLedger
from persistence.people import PostgresPeople
from persistence.projections import PostgresProjections
from persistence.risk import PostgresRisk
from persistence.snapshots import PostgresSnapshots
from tests.support.patience import eventually

SECRET = Secret(b"s" * 32)
ZONE = "Z1"
CURRENCY = "THB"
T = TypeVar("T")


class CatalogueRules:
    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._catalogue = PostgresCatalogue(pool)
        self.risks = PostgresRisk(pool).of_market

    async def current(self, market_id: int, now_us: TimeUs) -> tuple[MarketSpec, Phase]:
        spec = next(spec for spec in await self._catalogue.markets() if spec.market_id == market_id)
        paths = await self._catalogue.paths(spec.zones, now_us)
        return structs.replace(spec, paths=paths), await self._catalogue.first_phase(market_id)


class Exchange:
    """Markets by symbol; each can be stopped, killed and started again."""

    def __init__(self, dsn: str, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self.dsn, self.pool = dsn, pool
        self.catalogue, self.ledger = PostgresCatalogue(pool), PostgresLedger(pool)
        self.snapshots, self.projections = PostgresSnapshots(pool), PostgresProjections(pool)
        self.specs: dict[str, MarketSpec] = {}
        self.markets: dict[str, Market] = {}
        self.followers: dict[str, Follower] = {}
        self.links = Links(self.directory, SECRET)
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def directory(self, *, waits: bool = False) -> list[Place]:
        return [Place(spec, self.markets[symbol].address) for symbol, spec in self.specs.items()]

    async def open_market(self, symbol: str, **rules: Any) -> MarketSpec:
        """Create a market with one zone and no cost of transport, unless the rules say otherwise."""
        await self.catalogue.put_zones([ZoneRecord(ZONE, "A feeder")])
        await self.catalogue.put_costs([CostRecord(ZONE, ZONE, 0, 0, 0)], clock_us())
        paths = await self.catalogue.paths((ZONE,), clock_us())
        spec = structs.replace(MarketSpec(market_id=0, symbol=symbol, zones=(ZONE,), paths=paths, band_bps=0), **rules)
        self.specs[symbol] = await self.catalogue.create_market(spec, Phase.OPEN, clock_us())
        return self.specs[symbol]

    def start_market(
        self,
        symbol: str,
        journal: Journal | None = None,
        draws: Draws | None = None,
        clock: Callable[[], TimeUs] = clock_us,
        crash: Callable[[str], None] | None = None,
        aside: Aside = asyncio.to_thread,
        *,
        stands_by: bool = False,
        traced: Committed | None = None,
        **options: Any,
    ) -> Market:
        """Start (again) the shell of a market that was opened."""
        market = Market(
            self.specs[symbol].market_id,
            symbol,
            journal or PostgresJournal(self.dsn),
            self.snapshots,
            draws or self.ledger,
            CatalogueRules(self.pool),
            SECRET,
            clock,
            structs.replace(MarketOptions(idle_return_seconds=60.0), **options),
            crash,
            aside,
            stands_by=stands_by,
            traced=traced,
        )
        self.markets[symbol] = market
        self.tasks[symbol] = asyncio.create_task(market.run())
        return market

    def follow(self, symbol: str, **options: Any) -> Follower:
        """Start (again) the follower of a market."""
        spec = self.specs[symbol]
        follower = Follower(
            spec.market_id,
            symbol,
            PostgresJournal(self.dsn),
            self.snapshots,
            self.projections,
            structs.replace(FollowerOptions(poll_seconds=0.02, rest_seconds_max=0.0), **options),
        )
        self.followers[symbol] = follower
        self.tasks[f"follower {symbol}"] = asyncio.create_task(follower.run())
        return follower

    async def kill(self, name: str) -> None:
        """End a market or a follower as a crash would: in the middle of whatever it does."""
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.wait([task])

    async def trader(self, name: str, *, cash: int = 1_000 * MICRO, energy: int = 100_000) -> int:
        """A participant with this much money and energy in the main account."""
        people = PostgresPeople(self.pool)
        user = await people.create(f"{name}@example.org", name, b"x", "student", ZONE, clock_us())
        for asset, amount in ((CURRENCY, cash), (f"energy:{ZONE}", energy)):
            if amount:
                await self.ledger.deposit(user.user_id, asset, amount, f"{name}:{asset}", clock_us())
        return user.user_id

    async def balance(self, participant_id: int, asset: str = CURRENCY) -> AccountBalance:
        found = {one.asset: one for one in await self.ledger.balances(participant_id)}
        return found.get(asset, AccountBalance(asset, 0, 0, 0))

    async def submit(self, symbol: str, command: Command) -> Answer:
        await self.known(symbol)
        return await self.links.submit(self.specs[symbol].market_id, command)

    async def placed(self, symbol: str, command: Command) -> OrderAnswer:
        answer = await self.submit(symbol, command)
        assert isinstance(answer, OrderAnswer), answer
        return answer

    async def known(self, symbol: str) -> None:
        """Wait until the links have heard of the market."""
        self.links.refresh_soon()
        await eventually(lambda: symbol in self.links.markets())

    async def sequence(self, symbol: str) -> int:
        await self.known(symbol)
        answer = await self.links.ask(self.specs[symbol].market_id, GetMarket())
        assert isinstance(answer, MarketView), answer
        return answer.sequence

    async def followed(self, symbol: str) -> int:
        """Wait until the projections have everything that the market has; returns that sequence."""
        sequence = await self.sequence(symbol)
        market_id = self.specs[symbol].market_id
        await eventually(lambda: self.projections.cursor(market_id), lambda cursor: cursor >= sequence)
        return sequence


@asynccontextmanager
async def running(dsn: str, pool: "asyncpg.Pool[asyncpg.Record]") -> AsyncIterator[Exchange]:
    """An exchange without markets; everything started in it is ended with it."""
    exchange = Exchange(dsn, pool)
    exchange.tasks["links"] = asyncio.create_task(exchange.links.run())
    try:
        yield exchange
    finally:
        for name in list(exchange.tasks):
            await exchange.kill(name)


def order(participant_id: int, side: Side, price: str, kwh: str = "1.000", **more: Any) -> PlaceOrder:
    """A limit order in Z1; price in currency and energy in kWh, as people write them."""
    return PlaceOrder(
        participant_id, side, int(price.replace(".", "")) * 1_000, int(kwh.replace(".", "")), ZONE, **more
    )
