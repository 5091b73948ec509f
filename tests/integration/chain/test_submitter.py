"""The submitter on a real PostgreSQL and a real local chain: each effect once, whatever fails, and the books agree.

After each trouble everything is compared: what people own in the ledger with what their vaults hold, custody, supplies,
and the events of the chain with the effects that were asked for.

Seen to fail for: a write that names no owner, a bound that is not counted, a batch that is not halved, parts of
settlements that are not reported, one vault for fees and grid, the bit of another part looked at, what newcomers need
made by several transactions, of one round or of two at once. Found while they were made: two lanes that open one
person's account at once, the runtime's errors in JSON, a payload that an encoder refuses. Not for bytes that are sent
before they are stored: the guard makes that harmless; nor for rounds of the oracle that do not wait for the one before:
they share a transaction, in order.
"""

import asyncio
import contextlib
import os
from collections import Counter
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from solders.keypair import Keypair

from actors.chain_submitter import ChainSubmitter
from actors.clock import clock_us
from actors.crash_points import SUBMITTER_POINTS
from chain.client.writer import ChainWriter
from engine.audit import SYSTEM
from engine.journal import Fenced
from engine.metering.records import NewMeter
from engine.oracle.submissions import feed_id
from engine.records import Want
from engine.settlement.netting import FEES, GRID, Rule
from engine.settlement.states import Status
from engine.submission import Change, NotNow, TooLittle
from persistence import outbox
from persistence.chain_desk import PostgresChainDesk
from persistence.meters import PostgresMeters
from persistence.outbox import Order
from persistence.projections import PostgresProjections
from persistence.settlements import PostgresSettlements
from tests.support.on_chain import QUICK, OnChain, narrow
from tests.support.patience import HUNG_SECONDS
from tests.support.rows import batch, trade_row, trade_transfer

SLOT_SECONDS = 0.04
PEOPLE = ("ann", "bob", "cid")
WINDOWS = 4
LONG = bool(os.environ.get("LONG"))
INSIDE = ("participants_available", "participants_free", "participants_reserved", "fees", "grid")


class Killed(BaseException):
    """As SIGKILL: nothing that runs on hears of it."""


async def meter_of(world: OnChain, owner: int) -> int:
    """A meter that has proved itself."""
    meter = NewMeter(owner.to_bytes(16, "big"), f"M{owner}", "prosumer", 10_000, 10**9, "Z1", bytes(32), None)
    number = (await PostgresMeters(world.pool).register(meter, owner, 5)).number
    await world.pool.execute("UPDATE meters SET status = 'verified', verified_us = 6 WHERE number = $1", number)
    return number


async def energy(world: OnChain, kind: str, owner: int, meter: int, window: int, amount: int) -> None:
    """What the meters' posting writes: the ledger's transfer and the chain's order, in one transaction."""
    cause = f"{meter}:{window * 900}"
    accounts = {
        "energy_generated": (("generation", 0), ("main", owner)),
        "energy_retired": (("main", owner), ("retired", 0)),
    }[kind]
    payload = {"meter": meter, "window_us": window * 900_000_000, "owner_id": owner, "zone": "Z1", "amount_wh": amount}
    ids = []
    for name, participant in accounts:
        await world.pool.execute(
            "INSERT INTO accounts (participant_id, kind, market_id, asset) VALUES ($1, $2, 0, 'energy:Z1')"
            " ON CONFLICT DO NOTHING",
            participant,
            name,
        )
        ids.append(
            await world.pool.fetchval(
                "SELECT account_id FROM accounts WHERE (participant_id, kind, asset) = ($1, $2, 'energy:Z1')",
                participant,
                name,
            )
        )
    async with world.pool.acquire() as connection, connection.transaction():
        transfer = await connection.fetchval(
            "INSERT INTO transfers (kind, reference, time_us) VALUES ($1, $2, 1) RETURNING transfer_id",
            kind,
            f"{kind}:{cause}",
        )
        await connection.execute(
            "INSERT INTO entries (transfer_id, account_id, participant_id, amount)"
            " VALUES ($1, $2, $4, -$6::bigint), ($1, $3, $5, $6)",
            transfer,
            *ids,
            accounts[0][1],
            accounts[1][1],
            amount,
        )
        await outbox.add(connection, [Order(kind, cause, payload)], 1)


async def withdrawal(world: OnChain, owner: int, asset: str, amount: int) -> str:
    """To a wallet that he has linked a moment before."""
    wallet = str(Keypair().pubkey())
    await world.pool.execute(
        "INSERT INTO wallets (address, user_id, kind, is_primary, created_us) VALUES ($1, $2, 'linked', false, 5)",
        wallet,
        owner,
    )
    desk = PostgresChainDesk(world.pool)
    made = await desk.withdraw(owner, asset, amount, wallet, f"w:{wallet}", clock_us(), SYSTEM)
    return made.address


async def some_trades(world: OnChain, people: list[int], first: int = 1) -> None:
    """Six trades among them, in a settlement of several parts, which pay in and are paid."""
    market = PostgresProjections(world.pool)
    await world.ledger.draw(1, first, [Want(one, asset, 900) for one in people for asset in ("THB", "energy:Z1")])
    rows = [
        trade_row(
            number,
            people[number % 3],
            people[(number + 1 + number // 3) % 3],
            energy_wh=10 * number,
            buyer_value_micro=20 + number,
            seller_value_micro=20,
            buyer_fee_micro=3,
        )
        for number in range(first, first + 6)
    ]
    transfers = [trade_transfer(row) for row in rows]
    await market.write(batch(first - 1, first + 5, trades=rows, transfers=transfers))
    rule = Rule(every_us=1, trades_max=1_000, part_accounts=3)
    assert await PostgresSettlements(world.pool).settle_due(10**9, rule) == 6


async def some_rounds(world: OnChain) -> None:
    """Three rounds of a feed, of which the chain wants each after the one before."""
    common = {"feed": "retail", "feed_id": feed_id("retail").hex(), "spread": 2, "providers": 3}
    rounds = [
        Order("oracle", f"retail:{number}", common | {"number": number, "previous": previous, "value": 7, "at": number})
        for previous, number in ((0, 4), (4, 5), (5, 9))
    ]
    async with world.pool.acquire() as connection, connection.transaction():
        await outbox.add(connection, rounds, 1)


async def some_work(world: OnChain) -> list[int]:
    """Deposits, generation, retirement, trades and withdrawals of three people, and rounds of the oracle."""
    people = await world.people(*PEOPLE)
    for owner in people:
        meter = await meter_of(world, owner)
        await world.ledger.deposit(owner, "THB", 10_000_000 + owner, f"d{owner}", 1)
        await world.ledger.deposit(owner, "energy:Z1", 5_000, f"e{owner}", 1)
        for window in range(1, WINDOWS + 1):
            await energy(world, "energy_generated", owner, meter, window, 100 * window + owner % 7)
        await energy(world, "energy_retired", owner, meter, 1, 333)
        await withdrawal(world, owner, "THB", 1_000_000)
        await withdrawal(world, owner, "energy:Z1", 200)
    await some_trades(world, people)
    await some_trades(world, people, 7)
    await some_rounds(world)
    return people


async def differences(world: OnChain, people: list[int]) -> list[str]:
    """Everything that ledger and chain disagree about, once all is final."""
    found = []
    for owner in people:
        owned = {one.asset: one.available + one.in_markets for one in await world.ledger.balances(owner)}
        held = await world.held(owner)
        if held != (owned.get("energy:Z1", 0), owned.get("THB", 0)):
            found.append(f"{owner} owns {owned} and his vault holds {held}")
    trial = {(line.asset, line.kind): line.amount for line in await world.ledger.trial_balance()}
    for name in (FEES, GRID):
        house, booked = world.effects.house(name), (trial["energy:Z1", name], trial["THB", name])
        if (held := (world.tokens(house.energy), world.tokens(house.currency))) != booked:
            found.append(f"{name} has {booked} and its vault holds {held}")
    if (pools := world.pools()) != (0, 0):
        found.append(f"the pools hold {pools}")
    statuses = await world.pool.fetch("SELECT status, signature = '' FROM settlement_parts")
    if set(map(tuple, statuses)) - {(Status.FINALIZED, False)}:
        found.append(f"settlements say {statuses}")
    for asset, mint in (("energy:Z1", world.effects.energy_mint), ("THB", world.effects.currency_mint)):
        supply = int(world.devnet.call("getTokenSupply", str(mint))["value"]["amount"])
        asked_out = "SELECT coalesce(sum(amount), 0)::bigint FROM withdrawals WHERE asset = $1"
        outside = await world.pool.fetchval(asked_out, asset)
        inside = sum(trial[asset, kind] for kind in INSIDE)
        if supply != inside + outside:
            found.append(f"{asset}: supply {supply}, people {inside}, withdrawn {outside}")
        if trial.get((asset, "custody"), 0):
            found.append(f"{asset}: custody holds {trial[asset, 'custody']}")
    async with world.listening():

        async def read() -> bool:
            return (await world.events()).count("EnergyRetired") >= len(people)

        await world.until(read, "events")
        await asyncio.sleep(0.5)  # whatever else there may be
    seen = await world.events()
    asked = [tuple(row) for row in await world.pool.fetch("SELECT kind, payload ->> 'asset' FROM outbox")]
    expected = {
        "UserRegistered": sum(kind == "user_registered" for kind, _ in asked),
        "MeterRegistered": sum(kind == "meter_registered" for kind, _ in asked) + len(people),  # the faucet's
        "GenerationMinted": sum(
            kind == "energy_generated" or (kind, asset) == ("deposit_issued", "energy:Z1") for kind, asset in asked
        ),
        "EnergyRetired": sum(kind == "energy_retired" for kind, _ in asked),
        "Settled": sum(kind == "settle" for kind, _ in asked),
        "PricePublished": sum(kind == "oracle" for kind, _ in asked),
        "Withdrawn": sum(kind in ("withdrawal", "energy_retired") for kind, _ in asked),
    }
    counts = {name: seen.count(name) for name in expected}
    return found if counts == expected else [*found, f"events {counts}, not {expected}"]


async def test_everything_asked_for_happens_once_and_the_books_agree(world: OnChain) -> None:
    people = await some_work(world)

    async with world.submitting():
        await world.until_final()

    assert await differences(world, people) == []
    rows = await world.pool.fetch("SELECT count(DISTINCT signature), count(*) FROM chain_submissions")
    assert rows[0][0] < rows[0][1]  # effects have shared transactions


FAULTS = {
    "drop": ("drop", 8, 0),
    "delay": ("delay", 8, 20),
    "too late": ("delay", 6, 200),
    "duplicate": ("duplicate", 20, 0),
    "unanswered": ("unanswered", 8, 0),
    "refuse": ("refuse", 12, 0),
    "slow": ("slow", 12, 0.4),
}


async def later_work(world: OnChain, people: list[int], number: int) -> None:
    """More deposits, generation and withdrawals, so that the next trouble finds something to disturb."""
    for owner in people:
        meter = await world.pool.fetchval("SELECT number FROM meters WHERE serial = $1", f"M{owner}")
        await world.ledger.deposit(owner, "THB", 1_000 + number, f"d{owner}:{number}", 1)
        await energy(world, "energy_generated", owner, meter, 100 + number, 50 + number)
        await withdrawal(world, owner, "THB", 100 + number)


@pytest.mark.parametrize("names", [[name] for name in FAULTS] if LONG else [list(FAULTS)], ids=str)
async def test_a_fault_of_the_network_changes_nothing(world: OnChain, names: list[str]) -> None:
    """Short: one after the other. LONG=1: each by itself with all the work."""
    people = await some_work(world)

    async with world.submitting() as submitter:
        await world.until(_serving(submitter), "serving")
        for number, name in enumerate(names):
            world.devnet.call("devnet_fault", *FAULTS[name])
            if number:
                await later_work(world, people, number)
            await world.until_final()

    assert await differences(world, people) == []


@pytest.mark.parametrize("troubles", [["expire"], ["fork"]] if LONG else [["expire", "fork"]], ids=str)
async def test_a_fault_of_the_chain_changes_nothing(world: OnChain, troubles: list[str]) -> None:
    people = await some_work(world)

    async with world.submitting() as submitter:
        await world.until(_serving(submitter), "serving")
        for number, trouble in enumerate(troubles):
            if number:
                await later_work(world, people, number)
            for _ in range(4):
                await asyncio.sleep(0.25)
                world.devnet.call("devnet_expire") if trouble == "expire" else world.devnet.call("devnet_fork", 6)
            await world.until_final()

    assert await differences(world, people) == []


@pytest.mark.parametrize(
    "points", [[point] for point in SUBMITTER_POINTS] if LONG else [list(SUBMITTER_POINTS)], ids=str
)
async def test_a_submitter_that_dies_anywhere_is_followed_by_another(world: OnChain, points: list[str]) -> None:
    """Short: one submitter after the other dies at one point after the other. LONG=1: at each for several times."""
    people = await some_work(world)
    deaths = Counter[str]()

    for number, (point, times) in enumerate(
        (each, times) for each in points for times in ((1, 2, 3, 5) if LONG else (1,))
    ):
        reached = 0
        if number:
            await later_work(world, people, number)

        def crash(name: str) -> None:
            nonlocal reached
            reached += name == point  # noqa: B023 - called within this round
            if name == point and reached >= times:  # noqa: B023
                raise Killed(point)  # noqa: B023

        async with world.submitting(crash):
            assert world.running is not None
            # each is there once; whether it is a second and fifth time depends on what happens to be under way
            await asyncio.wait([world.running], timeout=HUNG_SECONDS if times == 1 else 10)
            with contextlib.suppress(Killed, BaseExceptionGroup):
                if world.running.done():
                    deaths[point] += 1
                    await world.running
    async with world.submitting():
        await world.until_final()

    assert set(deaths) == set(points)
    assert await differences(world, people) == []


async def test_a_chain_that_dies_is_waited_for(world: OnChain) -> None:
    people = await some_work(world)

    async with world.submitting() as submitter:
        await world.until(_serving(submitter), "serving")
        world.devnet.kill()
        await asyncio.sleep(1)
        world.devnet.start()
        await world.until_final()

    assert await differences(world, people) == []


async def test_who_was_replaced_can_write_no_more(world: OnChain) -> None:
    (ann,) = await world.people("ann")
    await world.ledger.deposit(ann, "THB", 5, "a", 1)
    rows = world.submissions
    (mine,) = await rows.claim("old", "mint", 10, 10, clock_us())
    await rows.adopt("new", clock_us(), everything=True)
    (theirs,) = await rows.claim("new", "mint", 10, 10, clock_us() + 10**9)

    after = msgspec.structs.replace(mine.submission, refusals=3)
    with pytest.raises(Fenced):
        await rows.record("old", [Change(mine, after)], clock_us())

    await rows.record("new", [Change(theirs, after)], clock_us())


async def test_a_lane_has_a_bound_and_holds_up_no_other(world: OnChain) -> None:
    people = await world.people("ann", "bob")
    for number in range(20):
        await world.ledger.deposit(people[number % 2], "THB", 5, f"{number}", 1)
    seen = 0

    async with world.submitting(options=narrow("mint", 3)):
        while "finalized" not in await world.states("deposit_issued"):
            states = await world.states("deposit_issued")
            seen = max(seen, sum(state in ("built", "signed", "sent") for state in states))
            await asyncio.sleep(0.01)
        await world.until_final()

    assert 1 <= seen <= 3


async def test_one_that_is_damaged_is_parked_and_the_others_go_on(world: OnChain) -> None:
    (ann,) = await world.people("ann")
    for number in range(6):
        await world.ledger.deposit(ann, "THB", 10 + number, f"{number}", 1)
    odd = {"user_id": ann, "deposit_id": 999, "asset": "THB", "amount": 2**65}
    await world.pool.execute(
        "INSERT INTO outbox (kind, key, payload, created_us) VALUES ('deposit_issued', '999', $1::jsonb, 1)",
        msgspec.json.encode(odd).decode(),
    )
    desk = PostgresChainDesk(world.pool)

    async def parked() -> bool:
        states = await world.states("deposit_issued")
        return states.count("finalized") == 6 and states[-1] == "parked"

    async with world.submitting():
        await world.until(parked, "six done, one parked")
        (row,) = await desk.submissions(ann, "deposit_issued", "parked", 2**62, 10)
        assert row.reason
        await desk.retry(row.number, clock_us(), SYSTEM)
        await world.until(parked, "parked again")


async def test_the_poisoned_member_of_a_batch_is_found(world: OnChain) -> None:
    """A window that governance's limit forbids shares its transaction with others, which succeed."""
    (ann,) = await world.people("ann")
    meter = await meter_of(world, ann)
    async with world.submitting():
        await world.until_final()
    authority = world.effects.signers[next(iter(world.signers))]
    limit = world.effects.programs.governance.instruction(
        "set_parameter", {"value": 1_000, "index": 0}, {"authority": authority}
    )
    await world.land([next(iter(world.signers.values()))], limit)
    for window in range(1, 8):
        await energy(world, "energy_generated", ann, meter, window, 5_000 if window == 4 else 100)

    async def told() -> bool:
        states = await world.states("energy_generated")
        return states.count("finalized") == 6 and states.count("parked") == 1

    async with world.submitting():
        await world.until(told, "six done, one parked")
    (row,) = await PostgresChainDesk(world.pool).submissions(ann, None, "parked", 2**62, 10)

    assert (row.key, row.reason) == (f"{meter}:3600", "AboveLimit")
    assert await world.held(ann) == (600, 0)


@pytest.mark.parametrize("claim_max", [256, 4], ids=["in one round", "in rounds that overlap"])
async def test_what_newcomers_need_is_made_by_one_transaction_and_fails_in_no_other(
    world: OnChain, claim_max: int
) -> None:
    """The faucet's meter of a person is registered with his first energy; more of it fills several transactions."""
    (ann,) = await world.people("ann")
    for number in range(24):
        await world.ledger.deposit(ann, "energy:Z1", 10, f"{number}", 1)

    async with world.submitting(options=replace(QUICK, claim_max=claim_max)):
        await world.until_final()

    rows = await world.pool.fetch("SELECT attempt, signature FROM chain_submissions WHERE kind = 'deposit_issued'")
    assert {row["attempt"] for row in rows} == {1}
    assert len({row["signature"] for row in rows}) > 1
    assert await world.held(ann) == (240, 0)


async def test_two_rounds_at_once_make_what_a_newcomer_needs_once(world: OnChain) -> None:
    (ann,) = await world.people("ann")
    await world.ledger.deposit(ann, "THB", 10, "first", 1)  # with which she has a vault
    async with world.submitting():
        await world.until_final()
    for number in range(4):
        await world.ledger.deposit(ann, "energy:Z1", 10, f"{number}", 1)
    effects = await world.submissions.claim("one", "mint", 4, 4, clock_us())
    async with world.pool_of() as rpc:
        writer = ChainWriter(rpc, world.effects, world.signers)

        rounds = await asyncio.gather(writer.plan(effects[:2]), writer.plan(effects[2:]))
        again = await asyncio.gather(writer.plan(effects[:2]), writer.plan(effects[2:]))

    assert sorted(len(packed) for _, packed, _ in rounds) == [0, 1]
    waiting = [one.why for _, _, declined in rounds for one in declined]
    assert waiting == [NotNow("an account that it needs is being made")] * 2
    assert [len(packed) for _, packed, _ in again] == [len(packed) for _, packed, _ in rounds]  # who made it may again


async def test_a_meter_that_changed_hands_credits_who_had_it_then(world: OnChain) -> None:
    ann, bob = await world.people("ann", "bob")
    meter = await meter_of(world, ann)
    await energy(world, "energy_generated", ann, meter, 1, 100)
    await energy(world, "energy_generated", bob, meter, 2, 40)
    await energy(world, "energy_generated", ann, meter, 3, 7)

    async with world.submitting():
        await world.until_final()

    assert [await world.held(one) for one in (ann, bob)] == [(107, 0), (40, 0)]


async def test_a_pause_holds_all_back_and_loses_nothing(world: OnChain) -> None:
    (ann,) = await world.people("ann")
    desk = PostgresChainDesk(world.pool)
    async with world.submitting():
        await desk.govern("pause", None, clock_us(), SYSTEM)
        await world.until_final()
        await world.ledger.deposit(ann, "THB", 77, "a", 1)
        await asyncio.sleep(1.5)
        assert set(await world.states("deposit_issued")) == {"queued"}
        assert await world.held(ann) == (0, 0)

        await desk.govern("unpause", None, clock_us(), SYSTEM)
        await world.until_final()

    assert await world.held(ann) == (0, 77)


async def test_nobody_withdraws_more_than_he_has(world: OnChain) -> None:
    (ann,) = await world.people("ann")
    await world.ledger.deposit(ann, "THB", 100, "a", 1)

    with pytest.raises(TooLittle):
        await withdrawal(world, ann, "THB", 101)

    assert await world.pool.fetchval("SELECT count(*) FROM outbox WHERE kind = 'withdrawal'") == 0


def _serving(submitter: ChainSubmitter) -> Any:
    async def serving() -> bool:
        return bool(submitter.status()["state"] == "serving")

    return serving
