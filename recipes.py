"""How each part of the exchange is made, in the process where Ray has placed it, and what it needs to find the others.

The one place where actors, gateway and persistence meet; what speaks to the chain is made in chain_recipes.py.
"""

import os
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from actors import crash_points, metrics
from actors.archiving import DAY_US, Archiver
from actors.clock import clock_us, elapsed_us
from actors.duties import Duty
from actors.hosting import ChainListenerActor, ChainSubmitterActor, Host, Recipe
from actors.market import Market, MarketOptions
from actors.market_host import MarketHost
from actors.persistence import FollowerOptions, Persistence
from chain_recipes import ChainView, make_chain_listener, make_chain_submitter
from config.settings import OF_THE_NODE, Settings
from engine.market import MarketSpec, Phase
from engine.settlement.netting import Rule
from engine.units import SECOND_US, TimeUs
from persistence.analytics import PostgresAnalytics
from persistence.api_keys import PostgresApiKeys
from persistence.archive import ArchivedJournal, FileArchive
from persistence.audit_log import PostgresAuditLog
from persistence.catalogue import PostgresCatalogue
from persistence.energy import PostgresEnergy
from persistence.figures import PostgresFigures
from persistence.first_answers import PostgresFirstAnswers
from persistence.history import PostgresHistory
from persistence.ledger import PostgresLedger
from persistence.makers import PostgresMakers
from persistence.meters import PostgresMeters
from persistence.oracle import PostgresOracle
from persistence.people import PostgresPeople
from persistence.postgres import ALWAYS_IN_ORDER_OF_KEY, OUTAGES, Pool
from persistence.projections import PostgresProjections
from persistence.rates import PostgresRates
from persistence.readings import PostgresReadings
from persistence.recurring import PostgresRecurring
from persistence.risk import PostgresRisk
from persistence.sealing import master_keys
from persistence.settlements import PostgresSettlements
from persistence.snapshots import PostgresSnapshots
from persistence.wallets import PostgresWallets, Vault
from wiring import BACKGROUND_NICE, Wiring, pool_of, recipe, tracing_of

if TYPE_CHECKING:
    from litestar import Litestar

    from actors.epoch_clock import EpochClock
    from actors.links import Links
    from actors.meter_aggregator import MeterAggregator
    from actors.meter_links import MeterLinks
    from actors.order_traces import OrderTraces
    from actors.supervisor import Supervisor
    from actors.tracing import Tracing
    from gateway.directory.ldap import LdapOptions
    from gateway.server import GatewayServer

VERSION: Final = version("wattbook")
FIGURES_SECONDS: Final = 15.0
ARCHIVE_SECONDS: Final = 60.0
FOLLOWERS_READ_AT_ONCE: Final = 8


class CatalogueRules:
    """A market's rules from the catalogue, with the costs that are valid at the moment."""

    def __init__(self, pool: Pool) -> None:
        self._catalogue = PostgresCatalogue(pool)
        self.risks = PostgresRisk(pool).of_market

    async def current(self, market_id: int, now_us: TimeUs) -> tuple[MarketSpec, Phase]:
        spec = next(spec for spec in await self._catalogue.markets() if spec.market_id == market_id)
        paths = await self._catalogue.paths(spec.zones, now_us)
        return msgspec.structs.replace(spec, paths=paths), await self._catalogue.first_phase(market_id)


class MarketMeans(NamedTuple):
    """What markets of one process share. readers: of journals; none: each has a connection of its own."""

    pool: Pool
    tracing: "Tracing | None"
    readers: "Pool | None" = None


async def make_market(wiring: Wiring, market_id: int, symbol: str, stands_by: bool = False) -> Market:
    pool = await pool_of(wiring, f"market {symbol}", 4, waits=False)
    means = MarketMeans(pool, tracing_of(wiring.settings, f"market-{symbol}"))
    return market_of(wiring, means, market_id, symbol, stands_by)


async def make_market_host(wiring: Wiring, name: str) -> MarketHost:
    pool = await pool_of(wiring, name, 8, waits=False)
    readers = await pool_of(wiring, f"{name} journals", 4, settings=ALWAYS_IN_ORDER_OF_KEY)
    means = MarketMeans(pool, tracing_of(wiring.settings, name), readers)
    return MarketHost(name, partial(market_of, wiring, means))


def market_of(wiring: Wiring, means: MarketMeans, market_id: int, symbol: str, stands_by: bool) -> Market:
    """The same alone and among others."""
    settings, (pool, tracing, readers) = wiring.settings, means
    return Market(
        market_id,
        symbol,
        ArchivedJournal(wiring.dsn, settings.archive, readers),
        PostgresSnapshots(pool),
        PostgresLedger(pool),
        CatalogueRules(pool),
        wiring.cluster_secret,
        clock_us,
        MarketOptions(
            host=dataplane_host(settings),
            currency=settings.currency,
            batch_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            idle_return_seconds=settings.idle_return_seconds,
        ),
        crash_points.of(f"market.{symbol}"),
        stands_by=stands_by,
        traced=tracing.committed if tracing is not None else None,
    )


def dataplane_host(settings: Settings) -> str:
    """Where the actors of this process listen: as set, or at the address of the node that Ray has placed them on."""
    from actors import handles

    return handles.node_address() if settings.dataplane_host == OF_THE_NODE else settings.dataplane_host


async def make_persistence(wiring: Wiring) -> Persistence:
    from actors import handles

    settings = wiring.settings
    os.nice(BACKGROUND_NICE)  # the order path comes first
    nice = 0 if settings.database_url else BACKGROUND_NICE
    pool = await pool_of(wiring, "persistence", 8, waits=False, nice=nice)
    readers = await pool_of(wiring, "followers", FOLLOWERS_READ_AT_ONCE, nice=nice, settings=ALWAYS_IN_ORDER_OF_KEY)
    archive, kept_us = FileArchive(wiring.dsn, pool, settings.archive), int(settings.journal_kept_days * DAY_US)
    duties = [Duty("journal archive", ARCHIVE_SECONDS, Archiver(archive, kept_us).archive_due)] if kept_us else []
    return Persistence(
        partial(ArchivedJournal, wiring.dsn, settings.archive, readers),
        PostgresSnapshots(pool),
        PostgresProjections(pool),
        handles.Directory(),
        wiring.cluster_secret,
        FollowerOptions(
            currency=settings.currency,
            snapshot_every=settings.snapshot_every,
            snapshots_kept=settings.snapshots_kept,
        ),
        crash_points.of,
        duties,
    )


async def make_meters(wiring: Wiring, shard: int) -> "MeterAggregator":
    from actors.meter_aggregator import AggregatorOptions, MeterAggregator

    settings = wiring.settings
    pool = await pool_of(wiring, f"meters {shard}", 4)
    return MeterAggregator(
        shard,
        settings.meter_shards,
        PostgresReadings(wiring.dsn, pool),
        PostgresMeters(pool),
        wiring.cluster_secret,
        clock_us,
        AggregatorOptions(
            host=dataplane_host(settings),
            keep_readings_days=settings.readings_kept_days,
            keep_verdicts_days=settings.reading_verdicts_kept_days,
        ),
    )


async def make_epoch_clock(wiring: Wiring) -> "EpochClock":
    from actors import handles
    from actors.epoch_clock import EpochClock
    from actors.recurring import RecurringOrders
    from persistence.oracle_rounds import PostgresOracleRounds

    settings, pool = wiring.settings, await pool_of(wiring, "epoch clock", 2)
    rule = Rule(
        every_us=settings.settlement_every_seconds * SECOND_US,
        trades_max=settings.settlement_trades_max,
        part_accounts=settings.settlement_part_accounts,
    )
    duties = (
        Duty("settlements", 1.0, partial(PostgresSettlements(pool).settle_due, rule=rule)),
        Duty("oracle rounds", 1.0, PostgresOracleRounds(pool).close_due),
        Duty("figures", FIGURES_SECONDS, partial(look_at_database, PostgresFigures(pool))),
    )
    clock = EpochClock(handles.Directory(), wiring.cluster_secret, clock_us, duties)
    clock.add(Duty("rebates", 5.0, PostgresMakers(pool, settings.currency).reward_due))
    clock.add(Duty("recurring orders", 1.0, RecurringOrders(PostgresRecurring(pool), clock.links).place_due))
    return clock


async def look_at_database(figures: PostgresFigures, _now_us: TimeUs) -> int:
    """A duty: what the database says of itself becomes metrics. Never more than nothing is due."""
    seen = await figures.look()
    for state, sessions in (("active", seen.active), ("in_transaction", seen.in_transaction), ("idle", seen.idle)):
        metrics.POSTGRES_SESSIONS.labels(state).set(sessions)
    metrics.POSTGRES_SESSIONS_MAX.set(seen.connections_max)
    metrics.POSTGRES_TRANSACTION_SECONDS.set(seen.oldest_seconds)
    metrics.POSTGRES_SIZE_BYTES.set(seen.size_bytes)
    metrics.LEDGER_TRANSFERS.set(seen.transfers)
    return 0


async def make_gateway(wiring: Wiring, number: int) -> "GatewayServer":
    from actors import handles
    from actors.links import Links
    from actors.meter_links import MeterLinks
    from gateway.server import GatewayServer

    tracing = tracing_of(wiring.settings, f"gateway-{number}")
    carried, queried = (tracing.carried, tracing.queried) if tracing is not None else (None, None)
    links = Links(handles.Directory(), wiring.cluster_secret, carried)
    meters = MeterLinks(handles.MeterDirectory(), wiring.cluster_secret)
    pool = await pool_of(wiring, f"gateway {number}", 16, queried=queried)
    app = gateway_app(wiring, pool, links, meters, traces_of(wiring.settings, number), tracing)
    return GatewayServer(number, app, wiring.settings.http_host, wiring.settings.http_port, [links.run, meters.run])


def traces_of(settings: Settings, number: int) -> "OrderTraces | None":
    from actors.order_traces import SUFFIX, OrderTraces

    if not settings.orders_traced:
        return None
    return OrderTraces(settings.traces / f"gateway-{number}{SUFFIX}", settings.orders_traced)


def gateway_app(
    wiring: Wiring,
    pool: Pool,
    links: "Links",
    meters: "MeterLinks",
    traces: "OrderTraces | None" = None,
    tracing: "Tracing | None" = None,
) -> "Litestar":
    """The application with its real dependencies."""
    import redis.asyncio
    from prometheus_client import REGISTRY

    from actors import handles
    from actors.stages import Stages, gathered
    from gateway.app import create_app
    from gateway.chain import probe_of, probe_of_books
    from gateway.directory.ldap import LdapDirectory
    from gateway.ports import Metering
    from gateway.settings import GatewaySettings, Limit
    from gateway.shared_limits import RedisBuckets

    settings = wiring.settings
    options = GatewaySettings(
        key_directory=wiring.settings.keys,
        chaos_report=settings.folder / "chaos.json",
        api_key_pepper=settings.api_key_pepper.encode(),
        api_keys_max=settings.api_keys_max,
        api_key_days=settings.api_key_days,
        api_key_days_max=settings.api_key_days_max,
        version=VERSION,
        site=settings.site,
        currency=settings.currency,
        default_zone=settings.default_zone,
        faucet_enabled=settings.faucet_is_open,
        cors_origins=settings.cors_origins,
        hsts_seconds=settings.hsts_seconds,
        trusted_proxies=settings.trusted_proxies,
        connections_per_address_max=settings.connections_per_address_max,
        body_bytes_max=settings.body_bytes_max,
        request_seconds_max=settings.request_timeout_seconds,
        orders_limit=Limit(settings.orders_per_second, settings.orders_per_second * 5 // 2),
        requests_limit=Limit(settings.requests_per_second, settings.requests_per_second * 3),
        login_limit=Limit(2.0, 100),  # a campus is one address to us: its morning must fit
        registration_limit=Limit(2.0, 100),
        directory_grace_seconds=settings.ldap_grace_seconds,
    )
    directory = LdapDirectory(ldap_options(settings)) if settings.ldap_url else None
    cache = redis.asyncio.from_url(
        wiring.redis_url, socket_timeout=0.2, socket_connect_timeout=0.2, health_check_interval=15
    )

    async def postgres_answers() -> None:
        await pool.fetchval("SELECT 1", timeout=2)

    async def redis_answers() -> None:
        await cache.ping()

    desk = ChainView(pool, wiring.chain_urls)

    async def chain_answers() -> None:
        probe_of(await desk.parts(), clock_us())

    async def books_agree() -> None:
        probe_of_books(await desk.compared())

    probes = {"postgres": postgres_answers, "redis": redis_answers}
    if wiring.chain_urls:
        probes["chain"] = chain_answers
        probes["books"] = books_agree
    if directory is not None:
        probes["directory"] = directory.answers
    return create_app(
        people=PostgresPeople(pool),
        wallets=PostgresWallets(pool),
        vault=Vault(pool, master_keys(settings.wallet_master_keys, wiring.settings.keys)),
        api_keys=PostgresApiKeys(pool),
        audit=PostgresAuditLog(pool),
        catalogue=PostgresCatalogue(pool),
        ledger=PostgresLedger(pool),
        history=PostgresHistory(pool),
        first_answers=PostgresFirstAnswers(pool, options.first_answers_max, options.first_answers_bytes_max),
        markets=links,
        metering=Metering(
            PostgresMeters(pool), meters, PostgresEnergy(pool), PostgresAnalytics(pool), PostgresRates(pool)
        ),
        settlements=PostgresSettlements(pool),
        oracle=PostgresOracle(pool),
        risk=PostgresRisk(pool),
        chain=desk,
        recurring=PostgresRecurring(pool),
        makers=PostgresMakers(pool, options.currency),
        clock=clock_us,
        elapsed=elapsed_us,
        settings=options,
        shared=RedisBuckets(cache),
        answers_in=cache,
        directory=directory,
        probes=probes,
        registry=REGISTRY,
        stages=Stages(),
        traces=traces,
        spans=tracing,
        gather=gathered,
        supervision=handles.supervision,
        processes=handles.Processes(),
        outages=OUTAGES,
    )


def ldap_options(settings: Settings) -> "LdapOptions":
    from gateway.directory.ldap import LdapOptions

    return LdapOptions(
        url=settings.ldap_url,
        ca_file=settings.ldap_ca_file,
        bind_dn=settings.ldap_bind_dn,
        bind_password=settings.ldap_bind_password,
        base_dn=settings.ldap_base_dn,
        login_attribute=settings.ldap_login_attribute,
        name_attribute=settings.ldap_name_attribute,
        id_attribute=settings.ldap_id_attribute,
        groups={
            "admin": settings.ldap_admin_groups,
            "faculty": settings.ldap_faculty_groups,
            "student": settings.ldap_student_groups,
        },
        seconds_max=settings.ldap_timeout_seconds,
    )


async def make_supervisor(wiring: Wiring) -> "Supervisor":
    from actors.supervisor import Supervisor

    pool = await pool_of(wiring, "supervisor", 2)
    settings = wiring.settings
    return Supervisor(
        PostgresCatalogue(pool),
        ActorRecipes(wiring),
        settings.gateways,
        settings.meter_shards,
        settings.markets_per_host,
    )


class ActorRecipes:
    """Recipes that travel: a function of this module with what it needs."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring

    def market(self, market_id: int, symbol: str, *, stands_by: bool = False) -> Recipe:
        return recipe(self._wiring, f"market-{symbol}", make_market, market_id, symbol, stands_by)

    def market_host(self, name: str) -> Recipe:
        return recipe(self._wiring, name, make_market_host, name)

    def persistence(self) -> Recipe:
        return recipe(self._wiring, "persistence", make_persistence)

    def epoch_clock(self) -> Recipe:
        return recipe(self._wiring, "epoch-clock", make_epoch_clock)

    def meters(self, shard: int) -> Recipe:
        return recipe(self._wiring, f"meters-{shard}", make_meters, shard)

    def gateway(self, number: int) -> Recipe:
        return recipe(self._wiring, f"gateway-{number}", make_gateway, number)

    def chain(self) -> list[tuple[str, type[Host], Recipe]]:
        if not self._wiring.chain_urls:
            return []
        submitter = recipe(self._wiring, "chain-submitter", make_chain_submitter)
        listener = recipe(self._wiring, "chain-listener", make_chain_listener)
        return [("chain-submitter", ChainSubmitterActor, submitter), ("chain-listener", ChainListenerActor, listener)]
