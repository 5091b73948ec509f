"""Markets and market data, and what an admin does to them."""

import zlib

import pytest

from gateway import health
from tests.unit.gateway.conftest import Person, World
from tests.unit.gateway.ports import DOWN


async def traded(world: World) -> tuple[Person, Person]:
    """One trade of 1.5 kWh at 3.000, and a book of two levels."""
    seller, buyer = await world.person("s@campus.example"), await world.person("b@campus.example")
    await seller.placed("sell", "3.000", "2")
    await buyer.placed("buy", "4.000", "1.5")
    await buyer.placed("buy", "2.900", "1")
    return seller, buyer


async def test_a_market_shows_its_rules_and_its_state(world: World) -> None:
    market = (await world.client.get("/api/v1/markets/Z1-SPOT")).json()
    every = (await world.client.get("/api/v1/markets")).json()

    assert every == {"items": [market], "next": None}
    assert (market["mechanism"], market["zones"], market["tick"], market["lot"]) == (
        "continuous",
        ["Z1", "Z2"],
        "0.001",
        "0.001",
    )
    assert (market["price_min"], market["price_max"], market["phase"]) == ("0.500", "20.000", "open")
    assert market["reference_price"] == "10.250"
    assert (await world.client.get("/api/v1/markets/NOWHERE")).status_code == 404


async def test_the_book_has_levels_and_a_checksum_of_them(world: World) -> None:
    await traded(world)

    book = (await world.client.get("/api/v1/markets/Z1-SPOT/book")).json()
    shallow = (await world.client.get("/api/v1/markets/Z1-SPOT/book?depth=1")).json()
    landed = (await world.client.get("/api/v1/markets/Z1-SPOT/book?zone=Z2")).json()

    assert (book["bids"], book["asks"]) == ([["2.900", "1.000", 1]], [["3.000", "0.500", 1]])
    assert book["checksum"] == shallow["checksum"] == zlib.crc32(b"2.900:1.000|3.000:0.500")
    assert landed["asks"] == [["4.090", "0.500", 1]]  # 3.000 + 1.00 + 3 %
    assert (await world.client.get("/api/v1/markets/Z1-SPOT/book?zone=Z9")).status_code == 400
    assert (await world.client.get("/api/v1/markets/Z1-SPOT/book?depth=0")).status_code == 400


async def test_trades_candles_statistics_and_epochs_agree(world: World) -> None:
    seller, _ = await traded(world)
    base = "/api/v1/markets/Z1-SPOT"

    trades = (await world.client.get(f"{base}/trades")).json()["items"]
    candles = (await world.client.get(f"{base}/candles?interval=1h")).json()["items"]
    stats = (await world.client.get(f"{base}/stats")).json()
    ticker = (await world.client.get(f"{base}/ticker")).json()
    epochs = (await world.client.get(f"{base}/epochs")).json()["items"]
    epoch = (await world.client.get(f"{base}/epochs/{epochs[0]['start']}")).json()
    fills = (await seller.get("/api/v1/fills")).json()["items"]

    assert [(one["trade_id"], one["price"], one["quantity"]) for one in trades] == [("1-1", "3.000", "1.500")]
    assert (candles[0]["close"], candles[0]["vwap"], candles[0]["volume"]) == ("3.000", "3.000", "1.500")
    assert (stats["last"], stats["value"], stats["trades"]) == ("3.000", "4.50", 1)
    assert (ticker["best_bid"], ticker["last"], ticker["change_24h"]) == (["2.900", "1.000", 1], "3.000", "0.000")
    assert epoch == epochs[0]
    assert (epoch["volume"], epoch["phase"], epoch["clearing_price"]) == ("1.500", "open", None)
    assert [(one["trade_id"], one["side"], one["liquidity"]) for one in fills] == [("1-1", "sell", "maker")]
    for bad in ("1970-01-01T00:00:01Z", "2100-01-01T00:00:00Z"):
        assert (await world.client.get(f"{base}/epochs/{bad}")).status_code == 404
    assert (await world.client.get(f"{base}/candles?interval=2m")).status_code == 400


async def test_liquidity_says_what_a_quantity_would_cost(world: World) -> None:
    seller, _ = await traded(world)
    await seller.placed("sell", "3.300", "1")

    liquidity = (await world.client.get("/api/v1/markets/Z1-SPOT/liquidity?quantity=1")).json()
    too_much = (await world.client.get("/api/v1/markets/Z1-SPOT/liquidity?quantity=100")).json()

    assert (liquidity["mid"], liquidity["spread"]) == ("2.950", "0.100")
    assert liquidity["within_5_percent"] == {"bids": "1.000", "asks": "0.500"}
    assert liquidity["buy"] == {
        "quantity": "1.000",
        "fillable": "1.000",
        "average_price": "3.150",
        "worst_price": "3.300",
        "slippage_bps": 500,
    }
    assert too_much["buy"]["fillable"] == "1.500"


async def test_an_admin_makes_changes_halts_and_resumes_a_market(world: World) -> None:
    boss, ann = await world.person("boss@campus.example", "admin"), await world.person()
    new = {"symbol": "NEW", "zones": ["Z1"], "tick": "0.01", "lot": "0.1", "price_max": "10", "band_bps": 0}

    made = await boss.post("/api/v1/markets", new)
    twice = await boss.post("/api/v1/markets", new)
    unknown_zone = await boss.post("/api/v1/markets", new | {"symbol": "X", "zones": ["Z9"]})
    lottery = await boss.post("/api/v1/markets", new | {"symbol": "X", "mechanism": "lottery"})
    off = await boss.post("/api/v1/markets", new | {"symbol": "X", "price_max": "10.001", "price_min": "10.01"})
    changed = await boss.call("PATCH", "/api/v1/markets/NEW", {"taker_fee_bps": 10, "price_max": "12"})
    order = await ann.placed("buy", "3.00", "1", market="NEW")
    halted = await boss.post("/api/v1/markets/NEW/halt")
    refused = await ann.order("buy", "3.00", "1", market="NEW")
    cleared = await boss.post("/api/v1/markets/NEW/cancel-all")
    resumed = await boss.post("/api/v1/markets/NEW/resume")

    assert (made.status_code, made.json()["tick"], made.json()["lot"]) == (201, "0.010", "0.100")
    assert (twice.status_code, twice.json()["code"]) == (409, "CONFLICT")
    assert (unknown_zone.status_code, list(unknown_zone.json()["fields"])) == (400, ["costs Z9 to Z9"])
    assert (lottery.status_code, list(lottery.json()["fields"])) == (400, ["mechanism"])
    assert (off.status_code, list(off.json()["fields"])) == (400, ["price_min"])
    assert (changed.json()["taker_fee_bps"], changed.json()["price_max"]) == (10, "12.000")
    assert world.exchange.symbols["NEW"].taker_fee_bps == 10  # the catalogue knows it too
    assert (halted.json()["phase"], resumed.json()["phase"]) == ("halted", "open")
    assert (refused.status_code, refused.json()["code"]) == (409, "MARKET_NOT_OPEN")
    assert cleared.json() == {"cancelled": 1}
    shown = (await ann.get(f"/api/v1/orders/{order['order_id']}")).json()
    assert shown["end_reason"] == "cancelled_by_admin"


async def test_a_market_shares_a_process_if_its_admin_says_so(world: World) -> None:
    boss = await world.person("boss@campus.example", "admin")
    new = {"zones": ["Z1"], "band_bps": 0}

    for symbol, more in (("ALONE", {}), ("QUIET", {"shared_process": True})):
        assert (await boss.post("/api/v1/markets", new | {"symbol": symbol} | more)).status_code == 201

    assert world.catalogue.shared == {"ALONE": False, "QUIET": True}


async def test_new_costs_and_capacities_reach_the_markets(world: World) -> None:
    boss = await world.person("boss@campus.example", "admin")
    cost = {"from": "Z1", "to": "Z2", "wheeling": "0", "loss_bps": 0}

    zones = await boss.call("PUT", "/api/v1/zones", {"items": [{"id": "Z3", "name": "North"}]})
    costs = await boss.call("PUT", "/api/v1/zones/costs", {"items": [cost]})
    capacity = {"items": [{"from": "Z1", "to": "Z2", "energy_per_epoch": "5"}]}
    capacities = await boss.call("PUT", "/api/v1/zones/capacities", capacity)
    bad = await boss.call("PUT", "/api/v1/zones/costs", {"items": [cost | {"to": "Z9"}]})

    assert [one["id"] for one in zones.json()["items"]] == ["Z1", "Z2", "Z3"]
    assert next(one for one in costs.json()["items"] if (one["from"], one["to"]) == ("Z1", "Z2"))["wheeling"] == "0.000"
    assert capacities.json()["items"] == [{"from": "Z1", "to": "Z2", "energy_per_epoch": "5.000"}]
    assert (bad.status_code, list(bad.json()["fields"])) == (400, ["items.0.to"])
    path = next(p for p in world.exchange.books[1].spec.paths if (p.zone_from, p.zone_to) == ("Z1", "Z2"))
    assert (path.wheeling_micro, path.loss_bps, path.capacity_wh) == (0, 0, 5_000)


async def test_deposits_are_idempotent_by_key_and_only_from_the_faucet(world: World) -> None:
    ann = await world.person()
    key = {"Idempotency-Key": "d-1"}

    first, again = [
        await ann.post("/api/v1/deposits", {"asset": "THB", "amount": "5.5"}, headers=key) for _ in range(2)
    ]
    other = await ann.post("/api/v1/deposits", {"asset": "THB", "amount": "6"}, headers=key)
    energy = await ann.post("/api/v1/deposits", {"asset": "energy:Z2", "amount": "1.250"})
    odd = await ann.post("/api/v1/deposits", {"asset": "energy:Z9", "amount": "1"})
    listed = (await ann.get("/api/v1/deposits")).json()["items"]
    ledger = (await ann.get("/api/v1/ledger", limit=1)).json()

    assert (first.status_code, first.json()["amount"]) == (201, "5.50")
    assert again.json()["deposit_id"] == first.json()["deposit_id"]
    assert (other.status_code, other.json()["code"]) == (409, "CONFLICT")
    assert energy.json()["amount"] == "1.250"
    assert (odd.status_code, list(odd.json()["fields"])) == (400, ["asset"])
    assert [one["asset"] for one in listed][:2] == ["energy:Z2", "THB"]
    assert ledger["items"][0]["amount"] == "1.250"
    assert ledger["next"] is not None
    world.build(faucet_enabled=False)
    assert (await ann.post("/api/v1/deposits", {"asset": "THB", "amount": "1"})).json()["code"] == "FORBIDDEN"


async def test_the_trial_balance_sums_to_zero(world: World) -> None:
    boss = await world.person("boss@campus.example", "admin")

    rows = (await boss.get("/api/v1/admin/ledger/trial-balance")).json()["items"]

    assert rows[0]["sum"] == "0.00"
    assert rows[0]["accounts"] == {"participants_available": "1000.00", "issuance": "-1000.00"}


async def test_positions_are_ones_own(world: World) -> None:
    seller, _ = await traded(world)

    position = (await seller.get("/api/v1/positions", market="Z1-SPOT")).json()["items"][0]

    assert (position["sold"], position["net"]) == ("1.500", "-1.500")
    assert (position["average_buy"], position["realised"], position["charges"]) == (None, "0.00", "0.00")


async def test_readiness_follows_the_markets_and_the_probes_that_matter(world: World) -> None:
    async def down() -> None:
        raise ConnectionRefusedError

    async def up() -> None:
        return

    world.build(probes={"postgres": up, "redis": down})
    await world.gateway.revocations.read()
    ready, health = await world.client.get("/health/ready"), await world.client.get("/api/v1/health")
    world.build(probes={"postgres": down})
    await world.gateway.revocations.read()
    without_store = await world.client.get("/ready")
    world.build()
    await world.gateway.revocations.read()
    world.exchange.failing = DOWN
    without_market = await world.client.get("/health/ready")

    assert ready.status_code == health.status_code == 200
    assert health.json()["dependencies"]["redis"]["state"] == "down"
    assert (without_store.status_code, without_store.json()["reasons"]) == (503, ["postgres: ConnectionRefusedError"])
    assert without_market.json()["reasons"] == ["market Z1-SPOT: the market does not answer"]
    assert (await world.client.get("/health/live")).status_code == 200


async def test_projections_that_stand_still_are_shown_and_stop_no_trading(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_STANDSTILL_SECONDS_MAX", -1.0)
    monkeypatch.setattr(health, "_FRESH_SECONDS", 0.0)
    await traded(world)
    await world.gateway.revocations.read()
    world.exchange.lag = True
    await world.client.get("/health")  # the first look only remembers where they stand

    shown, ready = await world.client.get("/health"), await world.client.get("/health/ready")

    assert shown.json()["dependencies"]["projections"]["state"] == "down"
    assert "stands still at 0 of" in shown.json()["dependencies"]["projections"]["reason"]
    assert ready.status_code == 200


async def test_an_exchange_that_knows_no_market_is_not_ready(world: World) -> None:
    world.build()
    await world.gateway.revocations.read()
    world.exchange.symbols.clear()

    ready = await world.client.get("/health/ready")

    assert ready.json()["reasons"] == ["no market is known yet"]
