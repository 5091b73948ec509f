"""The homes of the demo as traders: a meter that tells what has flowed, and a bot that sells what was credited for it.

A bot that will need energy bids for the quarter that comes, at first hopefully and then ever closer to what the grid
would charge; one that has some left asks, ever closer to what the grid would pay. Amounts are integers: Wh and micro.
"""

import asyncio
import random
from time import perf_counter_ns
from typing import Any

from msgspec import Struct

from bench.client import AckLog, ApiError, Trader
from bench.households import QUARTERS, Home
from bench.meters import Device, ReadingLog, submit
from engine.metering.windows import WINDOW_US

MARKET = "CAMPUS"
AUCTION = "CAMPUS-AUCTION"  # the same homes and lines; a call auction each second, so one in every quarter of the day
BEING_CLEARED_SECONDS = 0.05
SHORT = ("INSUFFICIENT_FUNDS", "INSUFFICIENT_ENERGY")
ROUNDS = 4  # prices a bot tries in one quarter
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


class Side(Struct):
    """What one market did on that day. lowest, highest: what sellers received per kWh."""

    sold_wh: int = 0
    value_micro: int = 0  # at what sellers received
    received_micro: int = 0
    bought_wh: int = 0
    paid_micro: int = 0
    lowest: int = 0
    highest: int = 0
    trades: set[str] = set()

    def welfare_micro(self, tariffs: Tariffs) -> int:
        """What buyers saved against the retail tariff and sellers earned beyond the feed-in tariff, after fees."""
        saved = tariffs.retail * self.bought_wh // 1_000 - self.paid_micro
        return saved + self.received_micro - tariffs.feed_in * self.sold_wh // 1_000


class Tally:
    """What the day came to, in integers, summed from the fills that the API reports."""

    def __init__(self) -> None:
        self.sides = {MARKET: Side(), AUCTION: Side()}
        self.latencies_ns: list[int] = []
        self.requests = 0
        self.sold_wh = [0] * 24
        self.value_micro = [0] * 24  # at what sellers received
        self.bought_wh = self.paid_micro = self.fees_micro = 0
        self.received_micro = 0
        self.trades: set[str] = set()


class Energy(Struct, frozen=True):
    """What became of energy, in Wh; `held` is what there is now."""

    generated: int = 0
    consumed: int = 0
    credited: int = 0
    retired: int = 0
    sold: int = 0
    bought: int = 0
    held: int = 0

    def since(self, before: "Energy") -> "Energy":
        """All but `held` as it has grown since then."""
        grown = {name: getattr(self, name) - getattr(before, name) for name in self.__struct_fields__[:-1]}
        return Energy(**grown, held=self.held)

    @classmethod
    def of_all(cls, parts: list["Energy"]) -> "Energy":
        return cls(*(sum(getattr(one, name) for one in parts) for name in cls.__struct_fields__))


class Bot:
    """One home's meter and trader. Orders live for one quarter."""

    def __init__(
        self,
        home: Home,
        trader: Trader,
        device: Device,
        day_us: int,
        tariffs: Tariffs,
        zone: str,
        logs: tuple[AckLog, ReadingLog],
        tally: Tally,
        seed: int,
    ) -> None:
        self.home, self._trader, self._device, self._day_us = home, trader, device, day_us
        self._tariffs, self._zone, self._tally, self._random = tariffs, zone, tally, random.Random(seed)
        self._log, self._readings = logs
        self._order, self._auctioned, self._wish_wh, self._rests = "", "", 0, False

    async def begin(self, quarter: int) -> None:
        """Offer what the closed windows have brought, or bid for what will be needed: half of it in each market."""
        self._rests, self._order, self._auctioned = False, "", ""
        # the window of the quarter before is not closed yet, so what was bought for it is still there
        self._wish_wh = await self.held_wh() - sum(
            max(0, -self.home.surplus_wh(one)) for one in (quarter, quarter - 1) if one >= 0
        )
        # nobody gains by a hopeful limit where all trade at one price: there it is the last one at once
        half_wh = abs(self._wish_wh) // 2
        auctioned = await self._place(AUCTION, half_wh, ROUNDS - 1)
        self._auctioned = auctioned["order_id"] if auctioned else ""
        shown = await self._place(MARKET, abs(self._wish_wh) - half_wh, 0)
        if shown:
            self._order, self._rests = shown["order_id"], shown["status"] in ("open", "partially_filled")

    async def _place(self, market: str, wh: int, attempt: int) -> dict[str, Any] | None:
        """None when there is nothing to trade, or a window closed meanwhile and used some of it up."""
        if wh == 0:
            return None
        order = {
            "market": market,
            "side": "sell" if self._wish_wh > 0 else "buy",
            "type": "limit",
            "quantity": kwh(wh),
            "price": price(self._wish(self._wish_wh > 0, attempt)),
        }
        started = perf_counter_ns()
        answer = await self._trader.place(order, self._log)
        self._timed(started)
        if answer.status == 422 and answer.json()["code"] in SHORT:
            return None
        if answer.status != 201:
            raise ApiError(answer.status, answer.json())
        shown: dict[str, Any] = answer.json()
        return shown

    async def improve(self, attempt: int) -> None:
        """Come closer to what the grid would do, if the order still rests."""
        if not self._rests:
            return
        asked = self._wish(self._wish_wh > 0, attempt)
        started = perf_counter_ns()
        answer = await self._trader.send("PATCH", f"/orders/{self._order}", {"price": price(asked)})
        self._timed(started)
        if answer.status == 409:  # it was filled meanwhile
            self._rests = False
        elif answer.status == 422 and answer.json()["code"] in SHORT:
            return  # what is missing lies free in the other market, beside an order
        elif answer.status != 200:
            raise ApiError(answer.status, answer.json())

    async def end(self, quarter: int) -> None:
        """Leave the quarter: nothing rests, and the meter tells what has flowed in it."""
        for order_id in (self._order, self._auctioned):
            if order_id:
                await self._take_back(order_id)
        surplus_wh = self.home.surplus_wh(quarter)
        await self._measure(quarter, max(0, -surplus_wh), max(0, surplus_wh), 900)

    async def _take_back(self, order_id: str) -> None:
        while True:
            started = perf_counter_ns()
            answer = await self._trader.send("DELETE", f"/orders/{order_id}")
            self._timed(started)
            if answer.status == 409 and answer.json()["code"] == "BEING_CLEARED":
                await asyncio.sleep(BEING_CLEARED_SECONDS)
                continue
            if answer.status not in (200, 409):  # 409: filled to the end
                raise ApiError(answer.status, answer.json())
            return

    async def close(self) -> None:
        """The first minutes of the next day: with them the meter's time has passed the last window's end."""
        await self._measure(QUARTERS, 0, 0, 300)

    async def _measure(self, quarter: int, import_wh: int, export_wh: int, seconds: int) -> None:
        said = self._device.says(self._day_us + quarter * WINDOW_US, import_wh, export_wh, seconds)
        verdict = (await submit(self._trader, said.shown(), [said], self._readings))[0]
        if verdict["status"] == "rejected":
            raise ApiError(200, verdict)

    async def held_wh(self) -> int:
        """What the home could sell, wherever it lies."""
        held = (await self._trader.call("GET", "/balances"))["items"]
        return sum(milli(one["total"]) for one in held if one["asset"] == f"energy:{self._zone}")

    async def energy(self) -> Energy:
        shown = await self._trader.call("GET", "/energy/balance")
        flows = {name: milli(shown[name]) for name in Energy.__struct_fields__[:-1]}
        return Energy(**flows, held=await self.held_wh())

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
        wh, value, fee = milli(fill["quantity"]), micro(fill["value"]), micro(fill["fee"])
        self._tally.trades.add(fill["trade_id"])
        self._tally.fees_micro += fee
        side = self._tally.sides[fill["market"]]
        side.trades.add(fill["trade_id"])
        if fill["side"] == "sell":
            received = micro(fill["price"])
            side.lowest, side.highest = min(side.lowest or received, received), max(side.highest, received)
            side.sold_wh += wh
            side.value_micro += value
            side.received_micro += value - fee
            self._tally.sold_wh[hour] += wh
            self._tally.value_micro[hour] += value
            self._tally.received_micro += value - fee
        else:
            side.bought_wh += wh
            side.paid_micro += value + fee
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


def kwh(wh: int) -> str:
    return f"{wh // 1_000}.{wh % 1_000:03d}"


def price(micro: int) -> str:
    return f"{micro // MICRO}.{micro % MICRO // TICK:03d}"


def money(micro: int) -> str:
    sign = "-" if micro < 0 else ""
    return f"{sign}{abs(micro) // MICRO}.{abs(micro) % MICRO // TICK:03d}"


def micro(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    whole, _, decimals = text.lstrip("-").partition(".")
    return sign * (int(whole) * MICRO + int(decimals.ljust(6, "0")))


def milli(text: str) -> int:
    whole, _, decimals = text.partition(".")
    return int(whole) * 1_000 + int(decimals.ljust(3, "0"))
