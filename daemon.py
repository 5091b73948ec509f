"""START HERE: reads the settings, joins the parts, starts them in order, and stops them in order.

    settings -> PostgreSQL, Valkey -> migrations -> first markets, admin, demo traders -> Ray -> supervisor -> ready

Nothing imports this file but the command line and Ray's workers, which find the recipes of their parts here.
"""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import datetime
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import httpx
import msgspec
import stamina
import structlog
from msgspec import Struct
from rich.console import Console

from actors import crash_points, keeper
from actors.dataplane import Secret
from actors.hosting import Recipe, clock_us
from actors.market import Market, MarketOptions
from actors.persistence import FollowerOptions, Persistence
from config.load import SettingsWrong, load
from config.logs import log_to
from config.markets import DEFAULT_FILE, load_markets
from config.settings import Settings
from engine.market import MarketSpec, Phase
from engine.records import DirectoryDown
from engine.units import MICRO, TimeUs
from persistence import migrate
from persistence.api_keys import PostgresApiKeys
from persistence.audit_log import PostgresAuditLog
from persistence.catalogue import PostgresCatalogue
from persistence.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey, StartFailed
from persistence.energy import PostgresEnergy
from persistence.first_answers import PostgresFirstAnswers
from persistence.history import PostgresHistory
from persistence.journal import PostgresJournal
from persistence.ledger import PostgresLedger
from persistence.meters import PostgresMeters
from persistence.people import PostgresPeople
from persistence.postgres import OUTAGES, Claim, Pool, open_pool
from persistence.projections import PostgresProjections
from persistence.readings import PostgresReadings
from persistence.sealing import MasterKeyProblem, master_keys
from persistence.snapshots import PostgresSnapshots
from persistence.wallets import PostgresWallets, Vault

if TYPE_CHECKING:
    from litestar import Litestar

    from actors.epoch_clock import EpochClock
    from actors.links import Links
    from actors.meter_aggregator import MeterAggregator
    from actors.meter_links import MeterLinks
    from actors.supervisor import Supervisor
    from gateway.directory.ldap import LdapOptions
    from gateway.server import GatewayServer

VERSION: Final = version("wattbook")
READY_SECONDS_MAX: Final = 60.0
DRAIN_SECONDS_MAX: Final = 8.0
ADMIN_EMAIL: Final = "admin@example.org"
DEMO_TRADERS: Final = ("sunny@example.org", "amber@example.org")
BCRYPT_COST: Final = 12
BACKGROUND_NICE: Final = 10
GC_THRESHOLDS: Final = (20_000, 20, 100)

log = structlog.get_logger()


class Wiring(Struct, frozen=True):
    """What a part must know to find the others: it travels to the process where the part is made."""

    settings: Settings
    dsn: str
    redis_url: str

    def __repr__(self) -> str:  # addresses may hold passwords
        return "Wiring(...)"

    @property
    def keys(self) -> Path:
        return _data_dir(self.settings) / "keys"

    @property
    def cluster_secret(self) -> Secret:
        given = self.settings.cluster_secret
        return Secret(given.encode() if given else (self.keys / "cluster-secret").read_bytes())


class CatalogueRules:
    """A market's rules from the catalogue, with the costs that are valid at the moment."""

    def __init__(self, catalogue: PostgresCatalogue) -> None:
        self._catalogue = catalogue

    async def current(self, market_id: int, now_us: TimeUs) -> tuple[MarketSpec, Phase]:
        spec = next(spec for spec in await self._catalogue.markets() if spec.market_id == market_id)
        paths = await self._catalogue.paths(spec.zones, now_us)
        return msgspec.structs.replace(spec, paths=paths), await self._catalogue.first_phase(market_id)


# --- recipes: how each part is made, in the process where Ray has placed it ----------------------------------------


async def make_market(wiring: Wiring, market_id: int, symbol: str) -> Market:
    settings, pool = wiring.settings, await _pool(wiring, f"market {symbol}", 4, waits=False)
    return Market(
        market_id,
        symbol,
        PostgresJournal(wiring.dsn),
        PostgresSnapshots(pool),
        PostgresLedger(pool),
        CatalogueRules(PostgresCatalogue(pool)),
        wiring.cluster_secret,
        clock_us,
        MarketOptions(
            host=settings.dataplane_host,
            currency=settings.currency,
            batch_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            idle_return_seconds=settings.idle_return_seconds,
        ),
        crash_points.of(f"market.{symbol}"),
    )


async def make_persistence(wiring: Wiring) -> Persistence:
    from actors import handles

    settings = wiring.settings
    os.nice(BACKGROUND_NICE)  # the order path comes first
    nice = 0 if settings.database_url else BACKGROUND_NICE
    pool = await _pool(wiring, "persistence", 8, waits=False, nice=nice)
    return Persistence(
        partial(PostgresJournal, wiring.dsn),
        PostgresSnapshots(pool),
        PostgresProjections(pool),
        handles.directory,
        wiring.cluster_secret,
        FollowerOptions(
            currency=settings.currency,
            snapshot_every=settings.snapshot_every,
            snapshots_kept=settings.snapshots_kept,
        ),
        crash_points.of,
    )


async def make_meters(wiring: Wiring, shard: int) -> "MeterAggregator":
    from actors.meter_aggregator import AggregatorOptions, MeterAggregator

    settings = wiring.settings
    pool = await _pool(wiring, f"meters {shard}", 4)
    return MeterAggregator(
        shard,
        settings.meter_shards,
        PostgresReadings(wiring.dsn, pool),
        PostgresMeters(pool),
        wiring.cluster_secret,
        clock_us,
        AggregatorOptions(
            host=settings.dataplane_host,
            keep_readings_days=settings.readings_kept_days,
            keep_verdicts_days=settings.reading_verdicts_kept_days,
        ),
    )


async def make_epoch_clock(wiring: Wiring) -> "EpochClock":
    from actors import handles
    from actors.epoch_clock import EpochClock

    return EpochClock(handles.directory, wiring.cluster_secret)


async def make_gateway(wiring: Wiring, number: int) -> "GatewayServer":
    from actors import handles
    from actors.links import Links
    from actors.meter_links import MeterLinks
    from gateway.server import GatewayServer

    links = Links(handles.directory, wiring.cluster_secret)
    meters = MeterLinks(handles.meter_directory, wiring.cluster_secret)
    pool = await _pool(wiring, f"gateway {number}", 16)
    app = gateway_app(wiring, pool, links, meters)
    return GatewayServer(number, app, wiring.settings.http_host, wiring.settings.http_port, [links.run, meters.run])


def gateway_app(wiring: Wiring, pool: Pool, links: "Links", meters: "MeterLinks") -> "Litestar":
    """The application with its real dependencies."""
    import redis.asyncio
    from prometheus_client import REGISTRY

    from actors.stages import Stages, gathered
    from gateway.app import create_app
    from gateway.directory.ldap import LdapDirectory
    from gateway.ports import Metering
    from gateway.settings import GatewaySettings, Limit
    from gateway.shared_limits import RedisBuckets

    settings = wiring.settings
    options = GatewaySettings(
        key_directory=wiring.keys,
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

    probes = {"postgres": postgres_answers, "redis": redis_answers}
    if directory is not None:
        probes["directory"] = directory.answers
    return create_app(
        people=PostgresPeople(pool),
        wallets=PostgresWallets(pool),
        vault=Vault(pool, master_keys(settings.wallet_master_keys, wiring.keys)),
        api_keys=PostgresApiKeys(pool),
        audit=PostgresAuditLog(pool),
        catalogue=PostgresCatalogue(pool),
        ledger=PostgresLedger(pool),
        history=PostgresHistory(pool),
        first_answers=PostgresFirstAnswers(pool, options.first_answers_max, options.first_answers_bytes_max),
        markets=links,
        metering=Metering(PostgresMeters(pool), meters, PostgresEnergy(pool)),
        clock=clock_us,
        settings=options,
        shared=RedisBuckets(cache),
        directory=directory,
        probes=probes,
        registry=REGISTRY,
        stages=Stages(),
        gather=gathered,
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

    pool = await _pool(wiring, "supervisor", 2)
    return Supervisor(
        PostgresCatalogue(pool), ActorRecipes(wiring), wiring.settings.gateways, wiring.settings.meter_shards
    )


class ActorRecipes:
    """Recipes that travel: a function of this module with what it needs."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring

    def market(self, market_id: int, symbol: str) -> Recipe:
        return _recipe(self._wiring, f"market-{symbol}", make_market, market_id, symbol)

    def persistence(self) -> Recipe:
        return _recipe(self._wiring, "persistence", make_persistence)

    def epoch_clock(self) -> Recipe:
        return _recipe(self._wiring, "epoch-clock", make_epoch_clock)

    def meters(self, shard: int) -> Recipe:
        return _recipe(self._wiring, f"meters-{shard}", make_meters, shard)

    def gateway(self, number: int) -> Recipe:
        return _recipe(self._wiring, f"gateway-{number}", make_gateway, number)


def _recipe(wiring: Wiring, name: str, make: Callable[..., Awaitable[Any]], *arguments: Any) -> Recipe:
    return partial(_make, wiring, name, make, *arguments)


async def _make(wiring: Wiring, name: str, make: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    log_to(_data_dir(wiring.settings) / "logs", name, wiring.settings.log_level)
    part = await make(wiring, *arguments)
    gc.collect()
    gc.freeze()  # what was imported stays: no collection need walk through it, and none come often
    gc.set_threshold(*GC_THRESHOLDS)
    return part


@stamina.retry(on=(OSError, asyncpg.PostgresError, TimeoutError), attempts=30, timeout=60.0, wait_max=2.0)
async def _pool(wiring: Wiring, name: str, size_max: int, *, waits: bool = True, nice: int = 0) -> Pool:
    return await open_pool(wiring.dsn, size_max, name, waits=waits, nice=nice)


# --- the daemon itself ----------------------------------------------------------------------------------------------


class CannotStart(Exception):
    """Says what is wrong and what to do about it."""


class CannotGoOn(Exception):
    """What the exchange stands on could not be kept; it has stopped in order."""


class Daemon:
    """Everything of one installation on this machine, from the first process to the last."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._stop = asyncio.Event()
        self._wiring: Wiring | None = None
        self._gave_up = ""  # why the exchange cannot go on

    async def run(self) -> None:
        """Start, say that it is ready, wait for Ctrl-C, stop. Raises CannotStart, CannotGoOn."""
        loop = asyncio.get_running_loop()
        started = monotonic()
        async with contextlib.AsyncExitStack() as stack:
            here = asyncio.current_task()
            assert here is not None
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, here.cancel)
            try:
                await self._start(stack)
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(number, self._stop.set)
                self._announce(monotonic() - started)
                await self._stop.wait()
            except asyncio.CancelledError:
                if here.cancelling():
                    here.uncancel()
            stopping = monotonic()
            self._console.print("\nStopping: finishing what is under way")
        self._console.print(f"Stopped in {monotonic() - stopping:.1f} s. Everything acknowledged is in the journal.")
        if self._gave_up:
            raise CannotGoOn(self._gave_up)

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        for folder in (_data_dir(settings), _data_dir(settings) / "keys", _data_dir(settings) / "logs"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711 if folder == _data_dir(settings) else 0o700)
        stack.enter_context(self._only_one())
        self._check_ports()
        if not settings.cluster_secret:
            _write_once(_data_dir(settings) / "keys" / "cluster-secret", secrets.token_bytes(32))
        try:
            master_keys(settings.wallet_master_keys, _data_dir(settings) / "keys")
        except MasterKeyProblem as error:
            raise CannotStart(f"The master keys of platform wallets cannot be used: {error}.") from error
        with self._step("PostgreSQL"):
            dsn = settings.database_url or await self._embedded(stack, EmbeddedPostgres(_data_dir(settings)))
        with self._step("Valkey"):
            redis_url = settings.redis_url or await self._embedded(stack, EmbeddedValkey(_data_dir(settings)))
        self._wiring = Wiring(settings, dsn, redis_url)
        with self._step("Migrations") as step:
            applied = await migrate.up(dsn)
            step(f"{len(applied)} applied" if applied else "up to date")
        await self._claim(stack, dsn)
        with self._step("Markets and people") as step:
            step(await first_rows(self._wiring))
        if settings.ldap_url:
            with self._step("Directory") as step:
                step(await self._look_at_directory())
        with self._step("Metrics"):
            self._serve_metrics(stack)
        with self._step("Ray"):
            ray_log = (_data_dir(settings) / "logs" / "ray.log").open("w", buffering=1)
            stack.enter_context(ray_log)
            stack.enter_context(contextlib.redirect_stdout(ray_log))  # pages of text about each worker that died
            stack.callback(self._stop_ray)
            await asyncio.to_thread(self._start_ray)
        with self._step("Actors") as step:
            stack.push_async_callback(self._drain)
            await asyncio.to_thread(self._make_supervisor)
            self._keep(stack, "supervisor", keeper.keep_supervisor(self._supervisor_is_known, self._make_supervisor))
            step(await self._until_ready())

    async def _claim(self, stack: contextlib.AsyncExitStack, dsn: str) -> None:
        """One exchange per database, wherever the other one runs."""
        claim = Claim(dsn)
        if not await claim.take():
            raise CannotStart(
                "Another Wattbook runs on the database that WATTBOOK_DATABASE_URL names. Stop that one first."
            )
        stack.push_async_callback(claim.release)
        self._keep(stack, "claim", keeper.keep_claim(claim, self._say))

    async def _look_at_directory(self) -> str:
        """Its people can log in later, too; a wrong certificate file or password should be known now."""
        from gateway.directory.ldap import LdapDirectory

        try:
            directory = LdapDirectory(ldap_options(self._settings))
        except OSError as error:
            raise CannotStart(f"ldap_ca_file = {self._settings.ldap_ca_file!r} cannot be used ({error}).") from error
        try:
            await directory.answers()
        except DirectoryDown as error:
            return f"does not answer: {error.__cause__ or error}; its people cannot log in until it does"
        return "answers"

    async def _embedded(self, stack: contextlib.AsyncExitStack, server: EmbeddedServer) -> str:
        try:
            address = await asyncio.to_thread(server.start)
        except StartFailed as error:
            raise CannotStart(str(error)) from error
        stack.callback(server.stop)
        self._keep(stack, server.name, keeper.keep_running(server, self._say))
        return address

    def _keep(self, stack: contextlib.AsyncExitStack, name: str, keeping: Coroutine[Any, Any, None]) -> None:
        """Run a keeper until the stack unwinds to here; when it gives up, everything stops."""
        task = asyncio.create_task(keeping, name=f"keep {name}")

        def ended(task: "asyncio.Task[None]") -> None:
            if task.cancelled():
                return
            error = task.exception()
            log.critical("daemon.gives_up", what=name, why=str(error), exc_info=error)
            self._gave_up = self._gave_up or str(error)
            self._stop.set()

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task])

        task.add_done_callback(ended)
        stack.push_async_callback(end)

    def _say(self, line: str) -> None:
        """A line for the operator who looks at the console, with the time, because it comes unasked."""
        self._console.print(f"{datetime.now():%H:%M:%S}  {line}", markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        """One daemon per data directory: a second one is told about the first."""
        path = _data_dir(self._settings) / "daemon.lock"
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise CannotStart(
                    f"Wattbook runs already on {_data_dir(self._settings)} ({file.read().strip() or 'starting'}). "
                    "Stop that one with Ctrl-C, or give this one its own WATTBOOK_DATA_DIR, WATTBOOK_HTTP_PORT, "
                    "WATTBOOK_METRICS_PORT and WATTBOOK_RAY_DASHBOARD_PORT."
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()}, {_url(self._settings)}")
            file.flush()
            yield

    def _check_ports(self) -> None:
        settings = self._settings
        for name, host, port in (
            ("WATTBOOK_HTTP_PORT", settings.http_host, settings.http_port),
            ("WATTBOOK_METRICS_PORT", "127.0.0.1", settings.metrics_port),
            ("WATTBOOK_RAY_DASHBOARD_PORT", "127.0.0.1", settings.ray_dashboard_port),
        ):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    raise CannotStart(
                        f"Port {port} on {host} cannot be used ({error.strerror}). Free it, or set {name} to another."
                    ) from error

    def _serve_metrics(self, stack: contextlib.AsyncExitStack) -> None:
        """All processes write their figures to files in one folder; this port adds them up."""
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.multiprocess import MultiProcessCollector

        folder = _metrics_folder(self._settings)
        shutil.rmtree(folder, ignore_errors=True)  # figures of processes that are gone
        folder.mkdir(parents=True)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        server, thread = start_http_server(self._settings.metrics_port, "127.0.0.1", registry)

        def stop() -> None:
            server.shutdown()
            thread.join(2)

        stack.callback(stop)

    def _make_supervisor(self) -> None:
        from actors import handles
        from actors.hosting import SupervisorActor

        assert self._wiring is not None
        known_to_all = msgspec.structs.replace(self._settings, admin_password="")
        wiring = msgspec.structs.replace(self._wiring, settings=known_to_all)
        recipe = _recipe(wiring, "supervisor", make_supervisor)
        handles.start(SupervisorActor, handles.Placement(handles.SUPERVISOR), recipe)

    def _supervisor_is_known(self) -> bool:
        from actors import handles

        try:
            handles.find(handles.SUPERVISOR)
        except handles.Unreachable:
            return False
        return True

    async def _until_ready(self) -> str:
        """Wait until orders can be placed in every open market. Raises CannotStart with the last reasons."""
        deadline, last = monotonic() + READY_SECONDS_MAX, "the gateway does not listen yet"
        async with httpx.AsyncClient(base_url=_url(self._settings), timeout=2) as client:
            while monotonic() < deadline and not self._gave_up:
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.get("/health/ready")
                    if answer.status_code == HTTPStatus.OK:
                        return "ready"
                    last = answer.text
                await asyncio.sleep(0.1)
        raise CannotStart(
            self._gave_up
            or f"not ready after {READY_SECONDS_MAX:.0f} s: {last}; see {_data_dir(self._settings) / 'logs'}"
        )

    async def _drain(self) -> None:
        from actors import handles

        try:
            supervisor = await asyncio.to_thread(handles.find, handles.SUPERVISOR)
            await handles.call(supervisor, "drain", DRAIN_SECONDS_MAX)
            handles.end(supervisor)
        except handles.Unreachable as error:
            self._console.print(f"[yellow]not everything could be drained ({error}); the journal has it all[/]")

    def _start_ray(self) -> None:
        from actors import handles

        if self._settings.ray_address:
            handles.join_cluster(self._settings.ray_address)
        else:
            handles.start_cluster(_data_dir(self._settings) / "ray", self._settings.ray_dashboard_port)

    def _stop_ray(self) -> None:
        from actors import handles

        handles.leave_cluster()

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Show what is being done, then how long it took."""
        started, said = monotonic(), ""

        def say(text: str) -> None:
            nonlocal said
            said = text

        with self._console.status(name):
            yield say
        self._console.print(f"[green]*[/] {name:<20}{monotonic() - started:5.1f} s  [dim]{said}[/]")

    def _announce(self, seconds: float) -> None:
        """Where everything is, and a first call to paste; never wrapped, so that it can be copied."""
        settings, url, keys = self._settings, _url(self._settings), _data_dir(self._settings) / "keys"
        rows = [
            ("API", f"{url}/api/v1"),
            ("Documentation", f"{url}/schema"),
            ("Metrics", f"http://127.0.0.1:{settings.metrics_port}/metrics"),
        ]
        if not settings.ray_address:
            rows.append(
                ("Ray dashboard", f"http://127.0.0.1:{settings.ray_dashboard_port}  token: {keys / 'ray-token'}")
            )
        admin = "the password you set" if settings.admin_password else f"password: {keys / 'admin-password'}"
        rows.append(("Admin", f"{settings.admin_email or ADMIN_EMAIL}  {admin}"))
        if settings.faucet_is_open:
            rows.append(("Demo traders", f"{', '.join(DEMO_TRADERS)}  password: {keys / 'demo-password'}"))
        rows.append(("Logs", str(_data_dir(settings) / "logs")))
        say = partial(self._console.print, soft_wrap=True, markup=False)
        if crash_points.VARIABLE in os.environ:
            say(f"{crash_points.VARIABLE} is set: parts of this exchange can be told to die. For tests only.")
        self._console.print(f"\n[bold]Wattbook is ready[/] after {seconds:.1f} s. Ctrl-C stops it.\n")
        for name, value in rows:
            say(f"  {name:<15}{value}")
        if settings.faucet_is_open:
            say("\nA first order, to paste into another terminal:\n")
            say(first_order(url, keys / "demo-password"))


def first_order(url: str, password_file: Path) -> str:
    """Shell lines that log a demo trader in and place an order."""
    order = '{"market":"CAMPUS","side":"sell","type":"limit","quantity":"1.250","price":"3.000"}'
    read = "import json,sys; print(json.load(sys.stdin)['access_token'])"
    return f"""\
TOKEN=$(curl -s {url}/api/v1/auth/login -H 'Content-Type: application/json' \\
  -d '{{"email":"{DEMO_TRADERS[0]}","password":"'$(cat {password_file})'"}}' | python3 -c "{read}")
curl -s {url}/api/v1/orders -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
  -d '{order}'"""


async def first_rows(wiring: Wiring) -> str:
    """What an empty database needs: zones, costs, markets, the first admin, and traders to play with."""
    settings, now_us = wiring.settings, clock_us()
    pool = await open_pool(wiring.dsn, 2, "first rows")
    try:
        catalogue, people, ledger = PostgresCatalogue(pool), PostgresPeople(pool), PostgresLedger(pool)
        known = {spec.symbol for spec in await catalogue.markets()}
        planned = load_markets(Path(settings.markets_file) if settings.markets_file else DEFAULT_FILE)
        if not known:
            await catalogue.put_zones(planned.zones)
            await catalogue.put_costs(planned.costs, now_us)
            await catalogue.put_capacities(planned.capacities)
        for spec in planned.markets:
            if spec.symbol not in known:
                paths = await catalogue.paths(spec.zones, now_us)
                await catalogue.create_market(msgspec.structs.replace(spec, paths=paths), Phase.OPEN, now_us)
        if not await people.count_admins():
            if not settings.admin_password:
                _write_once(wiring.keys / "admin-password", secrets.token_urlsafe(18).encode())
            password = settings.admin_password or (wiring.keys / "admin-password").read_text()
            await _person(people, settings, settings.admin_email or ADMIN_EMAIL, "Admin", password, "admin")
        if settings.faucet_is_open:
            path = wiring.keys / "demo-password"
            _write_once(path, secrets.token_urlsafe(18).encode())
            for email in DEMO_TRADERS:
                if await people.by_email(email) is None:
                    name = email.partition("@")[0].title()
                    user_id = await _person(people, settings, email, name, path.read_text(), "student")
                    for asset, amount in (
                        (settings.currency, 1_000 * MICRO),
                        (f"energy:{settings.default_zone}", 500_000),
                    ):
                        await ledger.deposit(user_id, asset, amount, f"demo:{user_id}:{asset}", now_us)
        return ", ".join(spec.symbol for spec in await catalogue.markets())
    finally:
        await pool.close()


async def _person(people: PostgresPeople, settings: Settings, email: str, name: str, password: str, role: str) -> int:
    from gateway.auth.passwords import Passwords

    passwords = Passwords(BCRYPT_COST, 1, 1)
    try:
        hashed = await passwords.hash(password)
    finally:
        passwords.close()
    return (await people.create(email, name, hashed, role, settings.default_zone, clock_us())).user_id


def prepare_environment(settings: Settings) -> None:
    """What must stand in the environment before Ray or Prometheus is imported, here and in every process we start."""
    keys = _data_dir(settings) / "keys"
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_folder(settings))
    if not settings.ray_address:
        # Ray's own ports listen on every interface, unless it takes the machine for one that joins no cluster. The
        # token is there for the other users of this machine.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        _write_once(keys / "ray-token", secrets.token_hex(32).encode())
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(keys / "ray-token")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would put the order path behind everything else
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _write_once(path: Path, content: bytes) -> None:
    """Make the file, for its owner only, unless it is there."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def _data_dir(settings: Settings) -> Path:
    return Path(settings.data_dir).absolute()


def _metrics_folder(settings: Settings) -> Path:
    return _data_dir(settings) / "metrics"


def _url(settings: Settings) -> str:
    return f"http://{settings.http_host}:{settings.http_port}"


def main() -> None:
    """Console script wattbookd."""
    console = Console(highlight=False, file=sys.stdout)  # this one stays when Ray's words are sent to a file
    if not __debug__:
        console.print("[red]Wattbook does not run under python -O: its assertions are part of it.[/]")
        sys.exit(2)
    parser = argparse.ArgumentParser(
        prog="wattbookd",
        description="Start the exchange: everything that is not configured runs privately on this machine.",
        epilog="Settings come from config/default.toml, the file that WATTBOOK_CONFIG names, and WATTBOOK_* variables.",
    )
    parser.add_argument("--version", action="version", version=f"wattbook {VERSION}")
    parser.parse_args()
    try:
        settings = load()
        prepare_environment(settings)
        log_to(_data_dir(settings) / "logs", "daemon", settings.log_level)
        asyncio.run(Daemon(settings, console).run())
    except (SettingsWrong, CannotStart, migrate.MigrationProblem) as error:
        console.print(f"[red]Wattbook cannot start.[/] {error}")
        sys.exit(1)
    except CannotGoOn as error:
        console.print(f"[red]Wattbook had to stop.[/] {error}")
        sys.exit(1)
