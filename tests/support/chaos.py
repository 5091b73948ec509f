"""Trouble of every kind for an installation under load, in an order that its seed decides, and the audit as judge.

A round has each fault once, shuffled; one in five follows the one before without waiting for anybody. What cannot be
done to a real installation without owning its machine is done as nearly as processes allow:

* full disk: the sessions of markets and followers may write no file beyond a few kB (RLIMIT_FSIZE), which fails
  PostgreSQL's log as well. Gateways' sessions are left out: they would be told of a bug (XX000), not of a disk (53100);
* slow fsync: they stand still for most of each 50 ms, which makes every commit as slow;
* a hole between a part and PostgreSQL: its sessions stand still, or are ended by the server;
* a hole between all parts and PostgreSQL or Valkey: a proxy takes the place of the server's socket, and is silent;
* clocks: every part's is set ahead together, and back (actors/clock.py); PostgreSQL's goes on as before.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg
import httpx
import msgspec
import psutil
import redis.asyncio
import stamina

from persistence.embedded import EmbeddedPostgres, EmbeddedValkey
from persistence.postgres import OUTAGES
from tests.support import faults
from tests.support.hole import Hole, hole, hole_before
from tests.support.installation import Installation
from tests.support.patience import HUNG_SECONDS
from tests.support.traders import SYMBOLS, Load, TimedLog

SILENT_SECONDS: Final = (0.5, 3.0)
AT_ONCE_PERCENT: Final = 20  # of faults that do not wait for the one before to be over
FILE_BYTES_MAX: Final = 64 * 1024
SLOW_STOPPED_SECONDS, SLOW_RUNNING_SECONDS = 0.04, 0.01
DELAY_SECONDS: Final = 0.05
AHEAD_SECONDS: Final = (10, 90)
CHAIN_FAULTS: Final = {"drop": 0, "delay": 3, "duplicate": 0, "unanswered": 0, "refuse": 0, "slow": 0.5}

PARTS: Final = ["%market%", "%gateway%", "%persistence%", "%followers%", "%epoch clock%", "%meters%"]
END_SESSIONS: Final = """
    SELECT pg_terminate_backend(pid)
    FROM pg_stat_activity
    WHERE backend_type = 'client backend'
        AND pid <> $1
"""

WRITERS: Final = """
    SELECT pid
    FROM pg_stat_activity
    WHERE application_name LIKE ANY(ARRAY['%market%', '%persistence%', '%journal%'])
        OR backend_type = 'walwriter'
"""

Fault = Callable[["Trouble"], Awaitable[None]]


class Report(msgspec.Struct):
    """One run. longest_pause_seconds: without any acknowledgement; violations: of the audit, and whatever ended it."""

    seed: int
    began_at: str
    seconds: float = 0.0
    faults: dict[str, int] = {}
    acknowledged: int = 0
    repeated: int = 0
    failed_requests: int = 0
    longest_pause_seconds: float = 0.0
    connections_through_the_hole: int = 0
    violations: list[str] = []


class Trouble(msgspec.Struct):
    """What a fault may use."""

    installation: Installation
    network: Hole
    chance: random.Random

    async def while_it_lasts(self) -> None:
        await asyncio.sleep(self.chance.uniform(*SILENT_SECONDS))


async def silent_network(trouble: Trouble) -> None:
    trouble.network.silence()
    try:
        await trouble.while_it_lasts()
    finally:
        trouble.network.heal()


async def cut_network(trouble: Trouble) -> None:
    trouble.network.cut()


async def slow_network(trouble: Trouble) -> None:
    trouble.network.delay_seconds = DELAY_SECONDS
    try:
        await trouble.while_it_lasts()
    finally:
        trouble.network.heal()


async def stopped(processes: list[Any], trouble: Trouble) -> None:
    """They stand still for a while, and go on."""
    try:
        _signal(processes, signal.SIGSTOP)
        await trouble.while_it_lasts()
    finally:
        _signal(processes, signal.SIGCONT)


async def stop_part(trouble: Trouble, kind: str) -> None:
    await stopped(await asyncio.to_thread(trouble.installation.actors, kind), trouble)


async def stop_server(trouble: Trouble, name: str) -> None:
    await stopped([await asyncio.to_thread(faults.server, trouble.installation, name)], trouble)


async def silent_sessions(trouble: Trouble) -> None:
    """A hole between one part and PostgreSQL: its sessions are not answered, others' are."""
    part, sessions = await _sessions_of_one(trouble)
    print(f"  (of {part})")
    await stopped([psutil.Process(pid) for pid in sessions if psutil.pid_exists(pid)], trouble)


async def ended_sessions(trouble: Trouble) -> None:
    part, sessions = await _sessions_of_one(trouble)
    print(f"  (of {part})")
    async with _database(trouble) as connection:
        for pid in sessions:
            await connection.execute("SELECT pg_terminate_backend($1)", pid)


async def silent_postgres(trouble: Trouble) -> None:
    """Everybody's sessions are ended, go through a proxy when they come back, and then nothing arrives any more."""
    async with (
        _database(trouble) as connection,  # the server has its socket
        hole_before(trouble.installation.data_dir / "postgres/socket/.s.PGSQL.5432") as way,
    ):
        own = await connection.fetchval("SELECT pg_backend_pid()")
        await connection.execute(END_SESSIONS, own)
        await _silent(way, trouble)


async def silent_valkey(trouble: Trouble) -> None:
    async with (
        _valkey(trouble) as client,
        hole_before(trouble.installation.data_dir / "valkey/socket/valkey.sock") as way,
    ):
        await client.client_kill_filter(_type="normal", skipme=True)
        asking = asyncio.create_task(_ask_for_health(trouble))  # which asks Valkey: orders do not
        try:
            await _silent(way, trouble)
        finally:
            asking.cancel()
            await asyncio.wait([asking])


async def _ask_for_health(trouble: Trouble) -> None:
    """Again and again, until cancelled."""
    async with httpx.AsyncClient(base_url=trouble.installation.url, timeout=HUNG_SECONDS) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                await client.get("/health")
            await asyncio.sleep(0.1)


async def _silent(way: Hole, trouble: Trouble) -> None:
    """For a while, once somebody goes through it."""
    async with asyncio.timeout(HUNG_SECONDS):
        await way.used(1)
    way.silence()
    await trouble.while_it_lasts()
    way.heal()


async def faulty_chain(trouble: Trouble) -> None:
    """The next transactions are lost, late, doubled, refused, or never answered (chain/devnet/faults.py)."""
    for fault, value in CHAIN_FAULTS.items():
        await _ask_chain(trouble.installation.chain_url, [fault, trouble.chance.randint(1, 3), value])


@stamina.retry(on=httpx.TransportError, attempts=None, timeout=HUNG_SECONDS, wait_max=0.5)
async def _ask_chain(url: str, order: list[Any]) -> None:
    async with httpx.AsyncClient(timeout=HUNG_SECONDS) as client:
        answer = await client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "devnet_fault", "params": order})
    assert "error" not in answer.json(), answer.text


async def full_disk(trouble: Trouble) -> None:
    """No session can make a file larger; PostgreSQL's log cannot be written either, and it recovers from that."""
    async with _database(trouble) as connection:
        found = await connection.fetch(WRITERS)
    sessions = [psutil.Process(row["pid"]) for row in found if psutil.pid_exists(row["pid"])]
    await asyncio.to_thread(_limit_files, sessions, str(FILE_BYTES_MAX))
    try:
        await trouble.while_it_lasts()
    finally:
        await asyncio.to_thread(_limit_files, sessions, "unlimited")


async def slow_fsync(trouble: Trouble) -> None:
    sessions = await asyncio.to_thread(_database_sessions, trouble)
    until = monotonic() + trouble.chance.uniform(*SILENT_SECONDS)
    try:
        while monotonic() < until:
            _signal(sessions, signal.SIGSTOP)
            await asyncio.sleep(SLOW_STOPPED_SECONDS)
            _signal(sessions, signal.SIGCONT)
            await asyncio.sleep(SLOW_RUNNING_SECONDS)
    finally:
        _signal(sessions, signal.SIGCONT)


async def flush_valkey(trouble: Trouble) -> None:
    async with _valkey(trouble) as client:
        await client.flushall()
        await client.client_kill_filter(_type="normal", skipme=True)


async def planned(trouble: Trouble, *arguments: str) -> bool:
    """A change that an operator makes; in the midst of trouble it may fail, and then says so. Whether it was made."""
    done = await asyncio.to_thread(trouble.installation.command, "wattbook", *arguments)
    if done.returncode:
        print(f"  ({done.stdout.strip()})")
    return not done.returncode


async def move(trouble: Trouble) -> None:
    await planned(trouble, "market", "move", trouble.chance.choice(SYMBOLS))


async def restart_gateway(trouble: Trouble) -> None:
    await planned(trouble, "gateway", "restart")


async def share_and_leave(trouble: Trouble) -> None:
    """A market goes in with others and out again; the way out is tried until it is done, for the next round's sake."""
    symbol = trouble.chance.choice(SYMBOLS)
    await planned(trouble, "market", "move", symbol, "--shared")
    deadline = monotonic() + HUNG_SECONDS
    while not await planned(trouble, "market", "move", symbol, "--alone") and monotonic() < deadline:  # noqa: ASYNC110 - a command
        await asyncio.sleep(0.5)


async def set_clocks(trouble: Trouble) -> None:
    """Ahead, and back to what they were: a market's time stands still until they have caught up with it."""
    clock = trouble.installation.clock
    clock.write_text(str(trouble.chance.randint(*AHEAD_SECONDS)))
    try:
        await trouble.while_it_lasts()
    finally:
        clock.unlink()


def on_installation(fault: faults.Fault) -> Fault:
    async def happens(trouble: Trouble) -> None:
        await fault(trouble.installation)

    return happens


ACTORS: Final = {
    "follower": "PersistenceActor",
    "gateway": "GatewayActor",
    "supervisor": "SupervisorActor",
    "epoch clock": "EpochClockActor",
    "meter aggregator": "MeterAggregatorActor",
    "chain submitter": "ChainSubmitterActor",
    "chain listener": "ChainListenerActor",
}
FAULTS: Final[dict[str, Fault]] = {
    "a market is killed": on_installation(faults.kill_market),
    **{
        f"the {name} is killed": on_installation(partial(faults.kill_actor, kind=kind)) for name, kind in ACTORS.items()
    },
    "Valkey is killed": on_installation(faults.kill_valkey),
    "Ray's control service is killed": on_installation(faults.kill_control_service),
    "the chain is killed": on_installation(faults.kill_devnet),
    "PostgreSQL is killed": on_installation(faults.kill_postgres),
    "one session of PostgreSQL is killed": on_installation(faults.kill_backend),
    "PostgreSQL stands still for 5 s": on_installation(faults.stop_postgres),
    "all markets stand still": partial(stop_part, kind="MarketActor"),
    "the gateway stands still": partial(stop_part, kind="GatewayActor"),
    "the supervisor stands still": partial(stop_part, kind="SupervisorActor"),
    "Valkey stands still": partial(stop_server, name="valkey"),
    "the chain stands still": partial(stop_server, name="devnet"),
    "silence between gateway and markets": silent_network,
    "gateway and markets are cut off": cut_network,
    "the network is slow": slow_network,
    "silence between a part and PostgreSQL": silent_sessions,
    "a part is cut off from PostgreSQL": ended_sessions,
    "silence between everybody and PostgreSQL": silent_postgres,
    "silence between everybody and Valkey": silent_valkey,
    "the chain misbehaves": faulty_chain,
    "the disk is full": full_disk,
    "fsync is slow": slow_fsync,
    "Valkey forgets everything": flush_valkey,
    "clocks are set ahead and back": set_clocks,
    "a market is moved": move,
    "a market shares a process and leaves it": share_and_leave,
    "the gateway is restarted": restart_gateway,
}


def schedule(seed: int) -> Iterator[tuple[str, bool]]:
    """Without end: the next fault, and whether it waits for the one before to be over. The seed decides everything."""
    chance = random.Random(seed)
    while True:
        for name in chance.sample(sorted(FAULTS), len(FAULTS)):
            yield name, chance.randrange(100) >= AT_ONCE_PERCENT


async def run(
    installation: Installation, folder: Path, seed: int, seconds: float, say: Callable[[str], None] = print
) -> Report:
    """Trouble for this long, and at least a whole round; then peace, and the judgement."""
    began, path = monotonic(), folder / f"acknowledged-{seed}.jsonl"
    report = Report(seed, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", violations=[])
    load, counts = Load(installation.url, TimedLog(path)), Counter[str]()
    try:
        async with hole(installation.detour) as network:
            await load.start()
            trouble = Trouble(installation, network, random.Random(seed))
            await planned(trouble, "gateway", "restart")  # the new one's connections go through the hole
            for name, waits in schedule(seed):
                if monotonic() - began > seconds and sum(counts.values()) >= len(FAULTS):
                    break
                if waits:
                    await load.recovered()
                    await faults.whole(installation)
                say(f"{monotonic() - began:7.1f} s  {name}")
                await FAULTS[name](trouble)
                counts[name] += 1
            await load.recovered()
            report.connections_through_the_hole = network.count
        await load.recovered()
        await faults.whole(installation)
    except (AssertionError, TimeoutError) as error:
        report.violations.append(f"it did not come back: {str(error)[:500]}")
    with contextlib.suppress(TimeoutError):
        if await load.stop():
            report.violations.append("an outcome stayed unknown")
    report.violations += [f"{count} times {what}" for what, count in load.surprises.items()]
    report.violations += await asyncio.to_thread(_audited, installation, path, len(load.log.acknowledgements))
    report.seconds, report.faults = round(monotonic() - began, 1), dict(counts)
    report.acknowledged = len(load.log.acknowledgements)
    report.repeated = sum(ack.repeated for ack in load.log.acknowledgements)
    report.failed_requests, report.longest_pause_seconds = load.faults, round(load.log.longest_pause(0), 2)
    return report


def _audited(installation: Installation, path: Path, acknowledged: int) -> list[str]:
    """What `wattbook audit` finds wrong, once everything serves again."""
    try:
        installation.until_ready()
    except AssertionError as error:
        return [f"not ready: {str(error)[:500]}"]
    audit = installation.command("wattbook", "audit", "--acknowledged", str(path))
    if audit.returncode:
        return [line for line in (audit.stdout + audit.stderr).splitlines() if line.strip()]
    return [] if f"{acknowledged} acknowledgements" in audit.stdout else [f"the audit has not seen all: {audit.stdout}"]


@contextlib.asynccontextmanager
async def _database(trouble: Trouble) -> Any:
    connection = await _connected(EmbeddedPostgres(trouble.installation.data_dir).address)
    try:
        yield connection
    finally:
        await connection.close()


@stamina.retry(on=OUTAGES, attempts=None, timeout=HUNG_SECONDS, wait_max=0.5)
async def _connected(dsn: str) -> Any:
    return await asyncpg.connect(dsn)


@contextlib.asynccontextmanager
async def _valkey(trouble: Trouble) -> Any:
    client = redis.asyncio.from_url(EmbeddedValkey(trouble.installation.data_dir).address)
    try:
        await _answers(client)
        yield client
    finally:
        await client.aclose()


@stamina.retry(on=(redis.RedisError, OSError), attempts=None, timeout=HUNG_SECONDS, wait_max=0.5)
async def _answers(client: Any) -> None:
    await client.ping()


async def _sessions_of_one(trouble: Trouble) -> tuple[str, list[int]]:
    """A part that has sessions, by chance, and the processes of PostgreSQL that serve it."""
    mine = "SELECT application_name, pid FROM pg_stat_activity WHERE application_name LIKE ANY($1) ORDER BY 1, 2"
    async with _database(trouble) as connection:
        rows = await connection.fetch(mine, PARTS)
    if not rows:
        return "nobody", []
    part = trouble.chance.choice(sorted({row["application_name"] for row in rows}))
    return part, [row["pid"] for row in rows if row["application_name"] == part]


def _database_sessions(trouble: Trouble) -> list[Any]:
    """The processes of PostgreSQL that serve a client, and the one that writes its log."""
    found = []
    for child in faults.server(trouble.installation, "postgres").children():
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(child.cmdline())
            if "postgres: wattbook" in title or "walwriter" in title:
                found.append(child)
    return found


def _limit_files(processes: list[Any], size: str) -> None:
    """As the user that they run as: a container's root may not do it to others."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            command = ["prlimit", f"--pid={process.pid}", f"--fsize={size}:"]
            user, group = process.uids().real, process.gids().real
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                user=None if user == os.getuid() else user,
                group=None if user == os.getuid() else group,
            )
            assert not done.returncode or not process.is_running(), done.stderr


def _signal(processes: list[Any], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
