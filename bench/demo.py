"""A day on the exchange: households sell what their panels leave over to neighbours who need it, quarter by quarter.

Everything goes through the public API, as any trader's would: each home has an account, a meter that signs what it
measures, and a bot. The day played is the last one. After each quarter the meter tells what has flowed; what its closed
windows are credited is what the bot can sell, and nothing else. A bot that will need energy bids for the quarter that
comes, at first hopefully and then ever closer to what the grid would charge. What stays unsold is exported at the
feed-in tariff, what stays unmet is bought at the retail tariff.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, time
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.clock import clock_us
from bench.bots import AUCTION, MARKET, ROUNDS, Bot, Energy, Tally, Tariffs, kwh, micro, money
from bench.client import AckLog, ApiError, Trader, new_password
from bench.households import QUARTERS, Home, homes
from bench.http import HttpPool
from bench.installation import end_on_sigterm
from bench.machine import machine, percentile
from bench.meters import ReadingLog, install
from config.settings import Settings
from engine.metering.windows import WINDOW_US
from engine.settlement.proofs import Proof, verify

SIGN_UPS_AT_ONCE = 4
SETTLED_SECONDS = 15  # from settlement to settlement, as the day has two minutes
FINAL_SECONDS_MAX = 90.0  # for settlements to become final on the chain, which takes 13 s at least
CLOSING_SECONDS_MAX = 30.0  # for the last windows to be credited
MARKET_SECONDS_MAX = 30.0  # for a new market to answer
IDLE_SECONDS = 0.1  # a quarter takes seconds: what was bought must be home, and be used, before it is over


def main(
    console: Console,
    settings: Settings,
    seconds: float,
    count: int,
    seed: int,
    admin: Callable[[], tuple[str, str] | None],
) -> None:
    """Run the day and print what it came to; starts the exchange for the time being if it does not run.

    admin: e-mail and password of somebody who may make the market of auctions, once the exchange runs.
    """
    url = f"http://{settings.http_host}:{settings.http_port}"
    orders, readings = (Path(settings.data_dir) / f"demo-{name}.jsonl" for name in ("acknowledged", "readings"))
    with _exchange(console, url):
        for path in (orders, readings):
            path.unlink(missing_ok=True)
        logs = AckLog(orders), ReadingLog(readings)
        asyncio.run(_auctions(settings, url, admin()))
        asyncio.run(_day(console, settings, url, seconds, count, seed, logs))
        console.print("\n[bold]wattbook audit[/]: everything that was acknowledged, against journals and tables")
        command = [str(Path(sys.executable).with_name("wattbook")), "audit"]
        audit = subprocess.run([*command, "--acknowledged", str(orders), "--readings", str(readings)], check=False)
    if audit.returncode:
        sys.exit(audit.returncode)


async def _auctions(settings: Settings, url: str, admin: tuple[str, str] | None) -> None:
    """Make the market in which the homes' other halves are auctioned, unless an earlier demo has."""
    host = url.removeprefix("http://")
    pool = HttpPool(host.partition(":")[0], int(host.partition(":")[2]), 1)
    anyone = Trader(pool, host, "", "")
    try:
        if (await anyone.send("GET", f"/markets/{AUCTION}")).status == httpx.codes.OK:
            return
        if admin is None:
            raise SystemExit(f"there is no market {AUCTION}, and no admin's password here to make it with")
        boss = Trader(pool, host, *admin)
        await boss.login()
        rules = {"symbol": AUCTION, "zones": [settings.default_zone], "mechanism": "call_auction", "epoch_seconds": 1}
        await boss.call("POST", "/markets", rules | {"band_bps": 0, "auction_fee_bps": 10})
        async with asyncio.timeout(MARKET_SECONDS_MAX):
            while True:  # gateways hear of it, and it starts
                answer = await anyone.send("GET", f"/markets/{AUCTION}")
                if answer.status == httpx.codes.OK and answer.json()["phase"] is not None:
                    return
                await asyncio.sleep(0.1)
    finally:
        pool.close()


async def _day(
    console: Console,
    settings: Settings,
    url: str,
    seconds: float,
    count: int,
    seed: int,
    logs: tuple[AckLog, ReadingLog],
) -> None:
    host = url.removeprefix("http://")
    pool = HttpPool(host.partition(":")[0], int(host.partition(":")[2]), 32)
    log, tally = logs[0], Tally()
    console.print(f"{count} households, {count // 2} with panels; BDEW H25 loads, pvlib sun, seed {seed}")
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        people = homes(count, seed)
        tariffs = await _tariffs(settings, pool, host)
        signing_up = progress.add_task("Households sign up", total=count, note="")
        traders = await _sign_up(settings, pool, host, people, lambda: progress.update(signing_up, advance=1, note=""))
        zone, day_us = settings.default_zone, (clock_us() // WINDOW_US - QUARTERS - 1) * WINDOW_US
        bots = [
            Bot(home, trader, await install(trader, zone), day_us, tariffs, zone, logs, tally, seed + number)
            for number, (home, trader) in enumerate(zip(people, traders, strict=True))
        ]
        before = Energy.of_all(await asyncio.gather(*(bot.energy() for bot in bots)))
        trading = progress.add_task("Trading", total=QUARTERS, note="00:00")
        hour_of: dict[str, int] = {}
        await asyncio.sleep(1 - time() % 1)  # so that no auction parts those who begin a quarter together
        started = monotonic()
        for quarter in range(QUARTERS):
            await _quarter(bots, quarter, started + seconds * quarter / QUARTERS, seconds / QUARTERS)
            for ack in log.acknowledgements[len(hour_of) :]:
                hour_of[ack.order_id] = quarter // 4
            progress.update(trading, advance=1, note=f"{quarter // 4:02d}:{quarter % 4 * 15:02d}")
        elapsed = monotonic() - started
        after = await _closed(bots, people, before)
        await asyncio.gather(*(bot.count(hour_of) for bot in bots))
    for one in logs:
        one.close()
    _print(console, settings, tariffs, tally, elapsed)
    _print_mechanisms(console, tariffs, tally, settings.currency)
    _print_energy(console, before, after, logs[1].count, len(bots))
    if settings.has_private_chain or settings.solana_rpc_urls:
        with console.status("Waiting until the settlements are final on the chain"):
            lines = await _settled(traders)
        console.print("\n".join(lines))
    pool.close()


async def _closed(bots: list[Bot], people: list[Home], before: Energy) -> Energy:
    """What became of the day's energy once its last window is credited. Raises TimeoutError when it never is."""
    await asyncio.gather(*(bot.close() for bot in bots))
    produced = sum(max(0, home.surplus_wh(quarter)) for home in people for quarter in range(QUARTERS))
    async with asyncio.timeout(CLOSING_SECONDS_MAX):
        while True:
            after = Energy.of_all(await asyncio.gather(*(bot.energy() for bot in bots))).since(before)
            if after.generated >= produced and _lost_wh(before, after) == 0:
                return after
            await asyncio.sleep(0.2)


async def _settled(traders: list[Trader]) -> list[str]:
    """How far the chain is with what was traded, and one trade's proof, checked against its settlement's root."""
    deadline = monotonic() + FINAL_SECONDS_MAX
    while True:
        settlements = (await traders[0].call("GET", "/chain/settlements?limit=1000"))["items"]
        final = [one for one in settlements if one["status"] == "finalized"]
        if len(final) == len(settlements) or monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    trades = sum(one["trades"] for one in final)
    lines = [f" final on the chain         {trades} trades in {len(final)} of {len(settlements)} settlements"]
    roots = {one["settlement_id"]: one["root"] for one in final}
    for trader in traders:
        for fill in (await trader.call("GET", "/fills?limit=1000"))["items"]:
            told = await trader.call("GET", f"/trades/{fill['trade_id']}/settlement")
            if told["settlement_id"] in roots:
                verify(msgspec.convert(told["proof"], Proof), bytes.fromhex(roots[told["settlement_id"]]))
                return [
                    *lines,
                    f" proof of trade {fill['trade_id']:<12}verified against settlement {told['settlement_id']}",
                ]
    return [*lines, " no trade is final there yet: `wattbook status` and docs/chain.md tell why"]


def _lost_wh(before: Energy, after: Energy) -> int:
    """What came in and is neither gone nor there; zero once tables show everything."""
    return before.held + after.credited + after.bought - after.sold - after.retired - after.held


async def _quarter(bots: list[Bot], quarter: int, begins: float, length: float) -> None:
    """One delivery period, compressed: every bot places, improves a few times, and takes back what rests."""

    async def live(bot: Bot, offset: float) -> None:
        for attempt in range(ROUNDS):
            await asyncio.sleep(max(0.0, begins + length * (attempt + offset) / (ROUNDS + 1) - monotonic()))
            await (bot.begin(quarter) if attempt == 0 else bot.improve(attempt))
        await asyncio.sleep(max(0.0, begins + length * (ROUNDS + offset) / (ROUNDS + 1) - monotonic()))
        await bot.end(quarter)

    await asyncio.gather(*(live(bot, number / len(bots)) for number, bot in enumerate(bots)))
    await asyncio.sleep(max(0.0, begins + length - monotonic()))


async def _sign_up(settings: Settings, pool: HttpPool, host: str, people: list[Home], done: Any) -> list[Trader]:
    """An account for each home, kept for the next demo; money comes from the faucet."""
    path = Path(settings.data_dir) / "keys" / "demo-homes"
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    passwords = {f"home-{number + 1}@example.org": new_password() for number in range(len(people))} | kept
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(passwords, file)
    turn = asyncio.Semaphore(SIGN_UPS_AT_ONCE)

    async def one(number: int, home: Home) -> Trader:
        email = f"home-{number + 1}@example.org"
        trader = Trader(pool, host, email, passwords[email])
        async with turn:
            while True:
                try:
                    await (trader.login() if email in kept else trader.register(home.name))
                    break
                except ApiError as error:
                    if error.status != 429:
                        raise
                    await asyncio.sleep(1)
            await trader.deposit(settings.currency, "500")
        done()
        return trader

    return list(await asyncio.gather(*(one(number, home) for number, home in enumerate(people))))


async def _tariffs(settings: Settings, pool: HttpPool, host: str) -> Tariffs:
    anyone = Trader(pool, host, "", "")
    costs = (await anyone.call("GET", f"/markets/{MARKET}"))["costs"]
    zone = settings.default_zone
    cost = next(one for one in costs if one["from"] == zone and one["to"] == zone)
    return Tariffs(
        micro(settings.retail_tariff), micro(settings.feed_in_tariff), micro(cost["wheeling"]), cost["loss_bps"]
    )


def _print(console: Console, settings: Settings, tariffs: Tariffs, tally: Tally, elapsed: float) -> None:
    sold = sum(tally.sold_wh)
    saved = tariffs.retail * tally.bought_wh // 1_000 - tally.paid_micro
    earned = tally.received_micro - tariffs.feed_in * sold // 1_000
    ordered = sorted(tally.latencies_ns)
    console.print("\n[bold]Prices by hour[/] (what sellers received per kWh; bar: energy sold)")
    most = max(tally.sold_wh) or 1
    for hour, wh in enumerate(tally.sold_wh):
        if wh:
            price = tally.value_micro[hour] * 1_000 // wh
            console.print(f"  {hour:02d}:00  {money(price)}  {'█' * max(1, 40 * wh // most)} {wh / 1_000:.1f} kWh")
    table = Table(show_header=False, box=None, title="\nThe day", title_justify="left")
    currency = settings.currency
    table.add_row("traded between neighbours", f"{sold / 1_000:.1f} kWh in {len(tally.trades)} trades")
    table.add_row(
        "mean price paid, landed", f"{money(tally.paid_micro * 1_000 // max(tally.bought_wh, 1))} {currency}/kWh"
    )
    table.add_row("retail, feed-in tariff", f"{money(tariffs.retail)}, {money(tariffs.feed_in)} {currency}/kWh")
    table.add_row("buyers saved", f"{money(saved)} {currency} against the retail tariff")
    table.add_row("sellers earned", f"{money(earned)} {currency} more than the feed-in tariff")
    table.add_row("requests", f"{tally.requests} in {elapsed:.0f} s, {tally.requests / elapsed:.0f}/s")
    table.add_row("latency p50, p95, p99", ", ".join(f"{percentile(ordered, q) / 1e6:.1f} ms" for q in (500, 950, 990)))
    table.add_row("machine", machine())
    console.print(table)


def _print_mechanisms(console: Console, tariffs: Tariffs, tally: Tally, currency: str) -> None:
    """The same homes, day and wishes, half in each: continuous trading beside a call auction in each quarter."""
    table = Table(
        "", "continuous", "call auction", box=None, title="\nHalf of every wish in each", title_justify="left"
    )
    sides = [tally.sides[MARKET], tally.sides[AUCTION]]
    table.add_row("volume", *(f"{kwh(side.sold_wh)} kWh" for side in sides))
    table.add_row("trades", *(f"{len(side.trades)}" for side in sides))
    table.add_row("welfare", *(f"{money(side.welfare_micro(tariffs))} {currency}" for side in sides))
    means = (side.value_micro * 1_000 // max(side.sold_wh, 1) for side in sides)
    table.add_row("mean price to sellers", *(f"{money(mean)}" for mean in means))
    table.add_row("lowest, highest", *(f"{money(side.lowest)}, {money(side.highest)}" for side in sides))
    console.print(table)


def _print_energy(console: Console, before: Energy, after: Energy, readings: int, meters: int) -> None:
    table = Table(show_header=False, box=None, title="\nThe energy", title_justify="left")
    table.add_row("measured", f"{kwh(after.generated)} kWh out, {kwh(after.consumed)} in: {readings} signed readings")
    if before.held:
        table.add_row("held from days before", f"{kwh(before.held)} kWh")
    table.add_row("credited", f"{kwh(after.credited)} kWh by {meters} verified meters")
    table.add_row("sold, bought", f"{kwh(after.sold)}, {kwh(after.bought)} kWh")
    table.add_row("retired", f"{kwh(after.retired)} kWh against what was consumed")
    table.add_row("held", f"{kwh(after.held)} kWh, so every Wh is in one place")
    console.print(table)


@contextlib.contextmanager
def _exchange(console: Console, url: str) -> Iterator[None]:
    """Use the exchange that runs, or run one for the time being."""
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"{url}/health/live", timeout=10)
        yield
        return
    console.print("The exchange does not run; starting it for the demo")
    end_on_sigterm()
    daemon = subprocess.Popen(
        [Path(sys.executable).with_name("wattbookd")],
        env=os.environ
        | {
            "WATTBOOK_IDLE_RETURN_SECONDS": f"{IDLE_SECONDS}",
            "WATTBOOK_SETTLEMENT_EVERY_SECONDS": f"{SETTLED_SECONDS}",
        },
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        for _ in range(600):
            if daemon.poll() is not None:
                said = daemon.stdout.read() if daemon.stdout else ""
                console.print(said)
                sys.exit(1)
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/ready", timeout=10).status_code == httpx.codes.OK:
                    break
            asyncio.run(asyncio.sleep(0.2))
        yield
    finally:
        daemon.send_signal(signal.SIGINT)
        daemon.wait(30)
