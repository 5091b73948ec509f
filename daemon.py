"""START HERE: reads the settings, joins the parts, starts them in order, and stops them in order.

    settings -> PostgreSQL, Valkey, local Solana -> migrations -> markets, people -> Ray -> supervisor -> ready

How each part is made stands in recipes.py, what an empty database needs in seeding.py. Nothing imports this file.
"""

import argparse
import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import Any, Final

import httpx
import msgspec
import structlog
from rich.console import Console

import compiled
from actors import clock, crash_points, detour, keeper
from chain_recipes import authorities
from config.load import SettingsWrong, load
from config.logs import BoundedText, log_to
from config.settings import Settings
from engine.records import DirectoryDown
from persistence import migrate
from persistence.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey, StartFailed
from persistence.embedded_devnet import FAULTS_VARIABLE, EmbeddedDevnet
from persistence.postgres import Claim
from persistence.priority import step_back_with_children
from persistence.sealing import MasterKeyProblem, master_keys
from recipes import VERSION, ldap_options, make_supervisor
from seeding import ADMIN_EMAIL, DEMO_TRADERS, first_rows, write_once
from wiring import BACKGROUND_NICE, Wiring, recipe

READY_SECONDS_MAX: Final = 60.0
DRAIN_SECONDS_MAX: Final = 8.0
RAY_VARIABLES: Final = {  # deploy/kubernetes says the same to a cluster
    "RAY_worker_niceness": "0",  # Ray's 15 would put the order path behind everything else
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

log = structlog.get_logger()


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
        for folder in (settings.folder, settings.keys, settings.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711 if folder == settings.folder else 0o700)
        stack.enter_context(self._only_one())
        if settings.unfinished.exists():
            raise CannotStart(f"A restore into {settings.folder} was not finished. Empty that folder, restore again.")
        self._check_ports()
        if not settings.cluster_secret:
            write_once(settings.keys / "cluster-secret", secrets.token_bytes(32))
        try:
            master_keys(settings.wallet_master_keys, settings.keys)
        except MasterKeyProblem as error:
            raise CannotStart(f"The master keys of platform wallets cannot be used: {error}.") from error
        with self._step("PostgreSQL"):
            dsn = settings.database_url or await self._embedded(stack, EmbeddedPostgres(settings.folder))
        with self._step("Valkey"):
            redis_url = settings.redis_url or await self._embedded(stack, EmbeddedValkey(settings.folder))
        chain_urls = settings.solana_rpc_urls or await self._private_chain(stack)
        self._wiring = Wiring(settings, dsn, redis_url, chain_urls)
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
            ray_log = stack.enter_context(BoundedText(settings.logs / "ray.log"))
            stack.enter_context(contextlib.redirect_stdout(ray_log))  # pages of text about each worker that died
            stack.callback(self._stop_ray)
            await asyncio.to_thread(self._start_ray)
            self._keep_control_service(stack)
        with self._step("Actors") as step:
            stack.push_async_callback(self._drain)
            await asyncio.to_thread(self._make_supervisor)
            self._keep(stack, "supervisor", keeper.keep_supervisor(self._supervisor_is_known, self._make_supervisor))
            step(await self._until_ready())
            self._keep(stack, "lookout", keeper.tell_of_the_absent(self._absent, self._say))

    async def _private_chain(self, stack: contextlib.AsyncExitStack) -> tuple[str, ...]:
        """Start it and give our own keys there what they need; no chain at all if the settings want none."""
        settings = self._settings
        if not settings.has_private_chain:
            return ()
        from chain.client.wallets import Role
        from chain.devnet.funding import fund

        with self._step("Local Solana") as step:
            url = await self._embedded(
                stack, EmbeddedDevnet(settings.folder, settings.devnet_port, settings.devnet_slot_ms)
            )
            keys = authorities(settings)
            given = await fund(url, [str(keys.signer(role).address) for role in Role])
            step(f"{given} keys funded" if given else url)
        return (url,)

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
        path = self._settings.folder / "daemon.lock"
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise CannotStart(
                    f"Wattbook runs already on {self._settings.folder} ({file.read().strip() or 'starting'}). "
                    "Stop that one with Ctrl-C, or give this one its own WATTBOOK_DATA_DIR, WATTBOOK_HTTP_PORT, "
                    "WATTBOOK_METRICS_PORT and WATTBOOK_RAY_DASHBOARD_PORT."
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()}, {self._settings.url}")
            file.flush()
            yield

    def _check_ports(self) -> None:
        settings = self._settings
        for name, host, port in (
            ("WATTBOOK_HTTP_PORT", settings.http_host, settings.http_port),
            ("WATTBOOK_METRICS_PORT", settings.metrics_host, settings.metrics_port),
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

        folder = self._settings.metrics_folder
        shutil.rmtree(folder, ignore_errors=True)  # figures of processes that are gone
        folder.mkdir(parents=True)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        server, thread = start_http_server(self._settings.metrics_port, self._settings.metrics_host, registry)

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
        making = recipe(wiring, "supervisor", make_supervisor)
        handles.start(SupervisorActor, handles.Placement(handles.SUPERVISOR), making)

    def _supervisor_is_known(self) -> bool:
        from actors import handles

        try:
            handles.find(handles.SUPERVISOR)
        except handles.Unreachable:
            return False
        return True

    async def _until_ready(self) -> str:
        """Wait until orders can be placed in every open market. Raises CannotStart with the last reasons.

        In a cluster the gateways run on other machines, so there the supervisor is asked.
        """
        deadline, last = monotonic() + READY_SECONDS_MAX, "the gateway does not listen yet"
        while self._settings.ray_address and monotonic() < deadline and not self._gave_up:
            last = await self._what_is_down()
            if not last:
                return "all actors answer"
            await asyncio.sleep(0.2)
        async with httpx.AsyncClient(base_url=self._settings.url, timeout=2) as client:
            while monotonic() < deadline and not self._gave_up:
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.get("/health/ready")
                    if answer.status_code == HTTPStatus.OK:
                        return "ready"
                    last = answer.text
                await asyncio.sleep(0.1)
        raise CannotStart(
            self._gave_up or f"not ready after {READY_SECONDS_MAX:.0f} s: {last}; see {self._settings.folder / 'logs'}"
        )

    async def _what_is_down(self) -> str:
        """Names of the actors that do not answer the supervisor; empty when all do."""
        from actors.handles import Unreachable

        try:
            seen = await self._supervised()
        except Unreachable as error:
            return f"supervisor: {error}"
        if not any(name.startswith("gateway") for name in seen):  # it starts them last
            return "the supervisor is starting the others"
        return ", ".join(name for name, is_up in seen.items() if not is_up)

    async def _absent(self) -> frozenset[str]:
        """Names of the actors that do not answer, or the supervisor's own."""
        from actors.handles import SUPERVISOR, Unreachable

        try:
            return frozenset(name for name, is_up in (await self._supervised()).items() if not is_up)
        except Unreachable:
            return frozenset({SUPERVISOR})

    async def _supervised(self) -> dict[str, bool]:
        """Which actors there are, and whether they answer. Raises Unreachable."""
        from actors import handles

        supervisor = await asyncio.to_thread(handles.find, handles.SUPERVISOR)
        status: dict[str, Any] = await handles.call(supervisor, "status")
        return {name: one["up"] for name, one in status.items() if isinstance(one, dict)}

    async def _drain(self) -> None:
        from actors import handles

        try:
            supervisor = await asyncio.to_thread(handles.find, handles.SUPERVISOR)
            await handles.call(supervisor, "drain", seconds=DRAIN_SECONDS_MAX)
            handles.end(supervisor)
        except handles.Unreachable as error:
            self._console.print(f"[yellow]not everything could be drained ({error}); the journal has it all[/]")

    def _start_ray(self) -> None:
        from actors import handles

        if self._settings.ray_address:
            handles.join_cluster(self._settings.ray_address)
        else:
            handles.start_cluster(self._settings.folder / "ray", self._settings.ray_dashboard_port)

    def _keep_control_service(self, stack: contextlib.AsyncExitStack) -> None:
        """In a cluster whoever runs the head does."""
        from actors import handles

        if not self._settings.ray_address:
            service = handles.ControlService()
            self._keep(stack, service.name, keeper.keep_running(service, self._say))
            back = partial(step_back_with_children, nice=BACKGROUND_NICE)
            self._keep(stack, "onlookers", keeper.keep_back(handles.onlookers, back))

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
        settings, url, keys = self._settings, self._settings.url, self._settings.keys
        rows = [
            ("API", f"{url}/api/v1"),
            ("Documentation", f"{url}/schema"),
            ("Metrics", f"http://{settings.metrics_host}:{settings.metrics_port}/metrics"),
        ]
        if not settings.ray_address:
            rows.append(
                ("Ray dashboard", f"http://127.0.0.1:{settings.ray_dashboard_port}  token: {keys / 'ray-token'}")
            )
        admin = "the password you set" if settings.admin_password else f"password: {keys / 'admin-password'}"
        rows.append(("Admin", f"{settings.admin_email or ADMIN_EMAIL}  {admin}"))
        if settings.faucet_is_open:
            rows.append(("Demo traders", f"{', '.join(DEMO_TRADERS)}  password: {keys / 'demo-password'}"))
        if settings.has_private_chain and self._wiring is not None:
            rows.append(("Local Solana", self._wiring.chain_urls[0]))
        rows.append(("Logs", str(settings.logs)))
        is_slow = compiled.form() == compiled.PYTHON
        rows.append(("Engine", "Python, a third as fast: make compiled" if is_slow else "compiled"))
        say = partial(self._console.print, soft_wrap=True, markup=False)
        if detour.VARIABLE in os.environ:
            say(f"{detour.VARIABLE} is set: connections between parts can be led astray. For tests only.")
        if clock.VARIABLE in os.environ:
            say(f"{clock.VARIABLE} is set: the clock of this exchange can be set ahead and back. For tests only.")
        if crash_points.VARIABLE in os.environ:
            say(f"{crash_points.VARIABLE} is set: parts of this exchange can be told to die. For tests only.")
        if FAULTS_VARIABLE in os.environ and settings.has_private_chain:
            say(f"{FAULTS_VARIABLE} is set: whoever reaches the local chain can make it misbehave. For tests only.")
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


def prepare_environment(settings: Settings) -> None:
    """What must stand in the environment before Ray or Prometheus is imported, here and in every process we start."""
    keys = settings.keys
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.metrics_folder)
    os.environ["PYTHONSAFEPATH"] = "1"  # nobody imports from the folder in which the daemon was started
    if not settings.ray_address:
        # Ray's own ports listen on every interface, unless it takes the machine for one that joins no cluster. The
        # token is there for the other users of this machine.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        write_once(keys / "ray-token", secrets.token_hex(32).encode())
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(keys / "ray-token")
    for name, value in RAY_VARIABLES.items():
        os.environ.setdefault(name, value)


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
        log_to(settings.logs, "daemon", settings.log_level)
        asyncio.run(Daemon(settings, console).run())
    except (SettingsWrong, CannotStart, migrate.MigrationProblem) as error:
        console.print(f"[red]Wattbook cannot start.[/] {error}")
        sys.exit(1)
    except CannotGoOn as error:
        console.print(f"[red]Wattbook had to stop.[/] {error}")
        sys.exit(1)
