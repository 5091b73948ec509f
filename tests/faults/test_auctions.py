"""A market of auctions dies between an epoch's close and its trades, amid them, and behind them; so does its follower,
before and after it writes. Each epoch is cleared exactly once, and every certificate is true.

Real processes, epochs of three seconds, a few hundred trades in each; `wattbook audit` is the judge.
"""

import asyncio
import threading
from functools import partial
from time import monotonic
from typing import Any, Final

import msgspec

from actors.crash_points import AUCTION_POINTS
from engine.auction.certificate import Published, problems
from tests.support import faults
from tests.support.installation import Installation, Person
from tests.support.patience import HUNG_SECONDS, eventually

SYMBOL: Final = "NOON"
EPOCH_SECONDS: Final = 3
ORDERS: Final = 400  # of each side at once: more trades than one step makes
POINTS = [
    *((f"market.{SYMBOL}", point) for point in AUCTION_POINTS),
    (f"follower.{SYMBOL}", "project"),
    (f"follower.{SYMBOL}", "projected"),
]


def trade(person: Person, side: str, price: str, over: threading.Event) -> None:
    """Until it is over, hundreds of small orders; what fails is left, for the auctions are what is judged."""
    order = {"market": SYMBOL, "side": side, "type": "limit", "price": price, "quantity": "0.010"}
    while not over.wait(1.0):
        person.ask("POST", "/orders/batch", {"orders": [order] * ORDERS})


def known(person: Person) -> bool:
    """A gateway hears of a new market within seconds."""
    return person.ask("GET", f"/markets/{SYMBOL}").is_success


def traded_epochs(person: Person) -> list[dict[str, Any]]:
    items = person.call("GET", f"/markets/{SYMBOL}/epochs?limit=1000")["items"]
    return [epoch for epoch in items if epoch["certificate"] and epoch["trades"]]


async def another(installation: Installation, person: Person) -> None:
    """Wait for an epoch that is cleared from now on."""
    before, began = len(await asyncio.to_thread(traded_epochs, person)), monotonic()
    while len(await asyncio.to_thread(traded_epochs, person)) <= before:
        assert monotonic() - began < HUNG_SECONDS, installation.output[-2_000:]
        await asyncio.sleep(0.2)


async def test_each_epoch_is_cleared_exactly_once_whatever_dies(installation: Installation) -> None:
    boss = installation.admin()
    rules = {"symbol": SYMBOL, "zones": ["Z1"], "mechanism": "call_auction", "band_bps": 0, "price_min": "0.5"}
    boss.call("POST", "/markets", rules | {"epoch_seconds": EPOCH_SECONDS, "auction_fee_bps": 10})
    seller, buyer = (installation.person().register(THB="20000", **{"energy:Z1": "20000"}) for _ in range(2))
    over = threading.Event()
    trading = [
        asyncio.create_task(asyncio.to_thread(trade, seller, "sell", "3.000", over)),
        asyncio.create_task(asyncio.to_thread(trade, buyer, "buy", "4.000", over)),
    ]
    try:
        await eventually(partial(asyncio.to_thread, known, boss))
        await another(installation, boss)
        for part, point in POINTS:
            began = monotonic()
            await faults.crash(installation, part, point, 1)
            died = monotonic() - began
            await another(installation, boss)
            print(f"{part} died at {point} after {died:.2f} s; cleared again after {monotonic() - began - died:.2f} s")
    finally:
        over.set()
        await asyncio.gather(*trading)
    await asyncio.to_thread(installation.until_ready)

    audit = await asyncio.to_thread(installation.command, "wattbook", "audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr
    epochs = await asyncio.to_thread(traded_epochs, boss)
    assert len({epoch["start"] for epoch in epochs}) == len(epochs) >= len(POINTS)
    for epoch in epochs:
        certificate = boss.ask("GET", epoch["certificate"]["href"].removeprefix("/api/v1"))
        published = msgspec.json.decode(certificate.content, type=Published)
        assert list(problems(published)) == []
        assert published.orders_hash == epoch["certificate"]["orders_hash"]
    print(f"{len(epochs)} epochs with trades, {sum(epoch['trades'] for epoch in epochs)} trades")
