"""A day on the exchange: households sell what their panels leave over to neighbours who need it, quarter by quarter.

Everything goes through the public API, as any trader's would: each home has an account and a bot. In each quarter a bot
with a surplus asks and one with a deficit bids, at first hopefully and then ever closer to what the grid would pay or
charge. What stays unsold is exported at the feed-in tariff, what stays unmet is bought at the retail tariff.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, perf_counter_ns
from typing import Any

import httpx
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.client import AckLog, ApiError, Trader, new_password
from bench.households import QUARTERS, Home, homes
from bench.http import HttpPool
from bench.machine import machine, percentile
from config.settings import Settings

MARKET = "CAMPUS"
ROUNDS = 4  # prices a bot tries in one quarter
SIGN_UPS_AT_ONCE = 4
MICRO = 1_000_000
TICK = 1_000


class Tariffs(Struct, frozen=True):
    """What the grid charges and pays per kWh, and what the campus' own lines cost on the way; in micro."""

    retail: int
    feed_in: int
    wheeling: int
    loss_bps: int

    def landed(self, ask: int) -> int:
        return ask + self.wheeling + -(-ask * self.loss_bps // (10_000 * TICK)) * TICK

    @property
    def ask_max(self) -> int:
        """The dearest ask that still beats the retail tariff at the buyer's door."""
        return (self.retail - self.wheeling) * 10_000 // (10_000 + self.loss_bps) // TICK * TICK


class Tally:
    """What the day came to, in integers, summed from the fills that the API reports."""

    def __init__(self) -> None:
        self.latencies_ns: list[int] = []
        self.requests = 0
        self.sold_wh = [0] * 24
        self.value_micro = [0] * 24  # at what sellers received
        self.bought_wh = self.paid_micro = self.fees_micro = 0
        self.received_micro = 0
        self.trades: set[str] = set()


class Bot:
    """One home's trader. Orders live for one quarter; energy that stayed unsold is not credited a second time."""

    def __init__(self, home: Home, trader: Trader, tariffs: Tariffs, zone: str, log: AckLog, tally: Tally, seed: int):
        self.home, self._trader, self._tariffs, self._zone = home, trader, tariffs, zone
        self._log, self._tally, self._random = log, tally, random.Random(seed)
        self._unsold_wh = 0
        self._order, self._rests = "", False

    async def begin(self, quarter: int) -> None:
        """Offer this quarter's surplus, or bid for its deficit."""
        surplus_wh = self.home.surplus_wh(quarter)
        self._rests = False
        if surplus_wh == 0:
            return
        if surplus_wh > self._unsold_wh:
            await self._trader.deposit(f"energy:{self._zone}", _kwh(surplus_wh - self._unsold_wh))
            self._unsold_wh = surplus_wh
        order = {
            "market": MARKET,
            "side": "sell" if surplus_wh > 0 else "buy",
            "type": "limit",
            "quantity": _kwh(abs(surplus_wh)),
            "price": _price(self._wish(surplus_wh > 0, 0)),
        }
        started = perf_counter_ns()
        answer = await self._trader.place(order, self._log)
        self._timed(started)
        if answer.status != 201:
            raise ApiError(answer.status, answer.json())
        shown = answer.json()
        self._order, self._rests = shown["order_id"], shown["status"] in ("open", "partially_filled")

    async def improve(self, quarter: int, attempt: int) -> None:
        """Come closer to what the grid would do, if the order still rests."""
        if not self._rests:
            return
        price = self._wish(self.home.surplus_wh(quarter) > 0, attempt)
        started = perf_counter_ns()
        answer = await self._trader.send("PATCH", f"/orders/{self._order}", {"price": _price(price)})
        self._timed(started)
        if answer.status == 409:  # it was filled meanwhile
            self._rests = False
        elif answer.status != 200:
            raise ApiError(answer.status, answer.json())

    async def end(self, quarter: int) -> None:
        """Leave the quarter: nothing rests, and what was sold is known."""
        surplus_wh = self.home.surplus_wh(quarter)
        if surplus_wh == 0:
            return
        started = perf_counter_ns()
        answer = await self._trader.send("DELETE", f"/orders/{self._order}")
        self._timed(started)
        if answer.status not in (200, 409):
            raise ApiError(answer.status, answer.json())
        if surplus_wh > 0:  # 409: filled to the end, so there was nothing left to cancel
            self._unsold_wh -= _milli(answer.json()["filled_quantity"]) if answer.status == 200 else surplus_wh

    async def count(self, hour_of: dict[str, int]) -> None:
        """Add up all fills of the day."""
        cursor = ""
        while True:
            page = await self._trader.call("GET", f"/fills?limit=1000{cursor}")
            today = [fill for fill in page["items"] if fill["order_id"] in hour_of]
            for fill in today:
                self._add(fill, hour_of[fill["order_id"]])
            if not page["next"] or not today:  # newest first: what comes now is from an earlier demo
                return
            cursor = f"&cursor={page['next']}"

    def _add(self, fill: dict[str, Any], hour: int) -> None:
        wh, value, fee = _milli(fill["quantity"]), _micro(fill["value"]), _micro(fill["fee"])
        self._tally.trades.add(fill["trade_id"])
        self._tally.fees_micro += fee
        if fill["side"] == "sell":
            self._tally.sold_wh[hour] += wh
            self._tally.value_micro[hour] += value
            self._tally.received_micro += value - fee
        else:
            self._tally.bought_wh += wh
            self._tally.paid_micro += value + fee

    def _wish(self, sells: bool, attempt: int) -> int:
        """A price between the best that one could hope for and the tariff that is certain anyway."""
        low, high = self._tariffs.feed_in, self._tariffs.ask_max
        hope = self._random.uniform(0.5, 1.0) * (1 - attempt / ROUNDS)
        ask = low + round((high - low) * (hope if sells else 1 - hope)) // TICK * TICK
        ask = min(high, max(low, ask // TICK * TICK))
        return ask if sells else self._tariffs.landed(ask)

    def _timed(self, started_ns: int) -> None:
        self._tally.requests += 1
        self._tally.latencies_ns.append(perf_counter_ns() - started_ns)


def main(console: Console, settings: Settings, seconds: float, count: int, seed: int) -> None:
    """Run the day and print what it came to; starts the exchange for the time being if it does not run."""
    url = f"http://{settings.http_host}:{settings.http_port}"
    acknowledged = Path(settings.data_dir) / "demo-acknowledged.jsonl"
    with _exchange(console, url):
        acknowledged.unlink(missing_ok=True)
        asyncio.run(_day(console, settings, url, seconds, count, seed, acknowledged))
        console.print("\n[bold]wattbook audit[/]: everything that was acknowledged, against a replay of the journal")
        audit = subprocess.run(
            [Path(sys.executable).with_name("wattbook"), "audit", "--acknowledged", str(acknowledged)], check=False
        )
    if audit.returncode:
        sys.exit(audit.returncode)


async def _day(
    console: Console, settings: Settings, url: str, seconds: float, count: int, seed: int, acknowledged: Path
) -> None:
    host = url.removeprefix("http://")
    pool = HttpPool(host.partition(":")[0], int(host.partition(":")[2]), 32)
    log, tally = AckLog(acknowledged), Tally()
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
        bots = [
            Bot(home, trader, tariffs, settings.default_zone, log, tally, seed + number)
            for number, (home, trader) in enumerate(zip(people, traders, strict=True))
        ]
        trading = progress.add_task("Trading", total=QUARTERS, note="00:00")
        hour_of: dict[str, int] = {}
        started = monotonic()
        for quarter in range(QUARTERS):
            await _quarter(bots, quarter, started + seconds * quarter / QUARTERS, seconds / QUARTERS)
            for ack in log.acknowledgements[len(hour_of) :]:
                hour_of[ack.order_id] = quarter // 4
            progress.update(trading, advance=1, note=f"{quarter // 4:02d}:{quarter % 4 * 15:02d}")
        elapsed = monotonic() - started
        await asyncio.gather(*(bot.count(hour_of) for bot in bots))
    log.close()
    pool.close()
    _print(console, settings, tariffs, people, tally, elapsed)


async def _quarter(bots: list[Bot], quarter: int, begins: float, length: float) -> None:
    """One delivery period, compressed: every bot places, improves a few times, and takes back what rests."""

    async def live(bot: Bot, offset: float) -> None:
        for attempt in range(ROUNDS):
            await asyncio.sleep(max(0.0, begins + length * (attempt + offset) / (ROUNDS + 1) - monotonic()))
            await (bot.begin(quarter) if attempt == 0 else bot.improve(quarter, attempt))
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
        _micro(settings.retail_tariff), _micro(settings.feed_in_tariff), _micro(cost["wheeling"]), cost["loss_bps"]
    )


def _print(
    console: Console, settings: Settings, tariffs: Tariffs, people: list[Home], tally: Tally, elapsed: float
) -> None:
    produced = sum(sum(home.produced_wh) for home in people)
    needed = sum(max(0, -home.surplus_wh(quarter)) for home in people for quarter in range(QUARTERS))
    surplus = sum(max(0, home.surplus_wh(quarter)) for home in people for quarter in range(QUARTERS))
    sold = sum(tally.sold_wh)
    saved = tariffs.retail * tally.bought_wh // 1_000 - tally.paid_micro
    earned = tally.received_micro - tariffs.feed_in * sold // 1_000
    ordered = sorted(tally.latencies_ns)
    console.print("\n[bold]Prices by hour[/] (what sellers received per kWh; bar: energy sold)")
    most = max(tally.sold_wh) or 1
    for hour, wh in enumerate(tally.sold_wh):
        if wh:
            price = tally.value_micro[hour] * 1_000 // wh
            console.print(f"  {hour:02d}:00  {_money(price)}  {'█' * max(1, 40 * wh // most)} {wh / 1_000:.1f} kWh")
    table = Table(show_header=False, box=None, title="\nThe day", title_justify="left")
    currency = settings.currency
    table.add_row("produced, of it surplus", f"{produced / 1_000:.1f} kWh, {surplus / 1_000:.1f} kWh")
    table.add_row("traded between neighbours", f"{sold / 1_000:.1f} kWh in {len(tally.trades)} trades")
    table.add_row(
        "of the surplus", f"{100 * sold // max(surplus, 1)} %, of the deficit {100 * sold // max(needed, 1)} %"
    )
    table.add_row(
        "mean price paid, landed", f"{_money(tally.paid_micro * 1_000 // max(tally.bought_wh, 1))} {currency}/kWh"
    )
    table.add_row("retail, feed-in tariff", f"{_money(tariffs.retail)}, {_money(tariffs.feed_in)} {currency}/kWh")
    table.add_row("buyers saved", f"{_money(saved)} {currency} against the retail tariff")
    table.add_row("sellers earned", f"{_money(earned)} {currency} more than the feed-in tariff")
    table.add_row("requests", f"{tally.requests} in {elapsed:.0f} s, {tally.requests / elapsed:.0f}/s")
    table.add_row("latency p50, p95, p99", ", ".join(f"{percentile(ordered, q) / 1e6:.1f} ms" for q in (500, 950, 990)))
    table.add_row("machine", machine())
    console.print(table)


@contextlib.contextmanager
def _exchange(console: Console, url: str) -> Iterator[None]:
    """Use the exchange that runs, or run one for the time being."""
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"{url}/health/live", timeout=2)
        yield
        return
    console.print("The exchange does not run; starting it for the demo")
    daemon = subprocess.Popen(
        [Path(sys.executable).with_name("wattbookd")], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        for _ in range(600):
            if daemon.poll() is not None:
                said = daemon.stdout.read() if daemon.stdout else ""
                console.print(said)
                sys.exit(1)
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/ready", timeout=2).status_code == httpx.codes.OK:
                    break
            asyncio.run(asyncio.sleep(0.2))
        yield
    finally:
        daemon.send_signal(signal.SIGINT)
        daemon.wait(30)


def _kwh(wh: int) -> str:
    return f"{wh // 1_000}.{wh % 1_000:03d}"


def _price(micro: int) -> str:
    return f"{micro // MICRO}.{micro % MICRO // TICK:03d}"


def _money(micro: int) -> str:
    sign = "-" if micro < 0 else ""
    return f"{sign}{abs(micro) // MICRO}.{abs(micro) % MICRO // TICK:03d}"


def _micro(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    whole, _, decimals = text.lstrip("-").partition(".")
    return sign * (int(whole) * MICRO + int(decimals.ljust(6, "0")))


def _milli(text: str) -> int:
    whole, _, decimals = text.partition(".")
    return int(whole) * 1_000 + int(decimals.ljust(3, "0"))
