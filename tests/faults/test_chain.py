"""SIGKILL of submitter, listener and local chain while people deposit, trade and withdraw: each effect once.

Afterwards everything is compared: what was asked for in the ledger, what the chain's final history has, what the
listener took up, and by the exchange itself every vault with every balance.
"""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import asyncpg
from solders.keypair import Keypair

from chain.client.history import ChainReader
from chain.client.programs import reference_programs
from chain.client.rpc import RpcPool, RpcSettings
from engine.submission import ChainEvent
from persistence.embedded import EmbeddedPostgres
from tests.e2e.chain import Chain
from tests.e2e.test_chain import linked
from tests.support import faults
from tests.support.installation import Installation, Person
from tests.support.patience import eventually

FAULTS: dict[str, faults.Fault] = {
    "submitter": partial(faults.kill_actor, kind="ChainSubmitterActor"),
    "listener": partial(faults.kill_actor, kind="ChainListenerActor"),
    "chain": faults.kill_devnet,
}
PAUSE_SECONDS: Final = 0.05
DONE: Final = 8  # transactions between two faults
UNSETTLED: Final = """
    SELECT (SELECT count(*) FROM trades)
        - (SELECT coalesce(sum(trades), 0) FROM settlements WHERE status = 4)::bigint
"""
GUARDED: Final = ("withdrawal", "energy_retired", "energy_revoked")


async def test_whatever_is_killed_each_effect_happens_once(installation: Installation, long: bool) -> None:
    dsn = EmbeddedPostgres(installation.data_dir).address
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(900), loaded(installation):
            for _ in range(4 if long else 1):
                for name, fault in FAULTS.items():
                    await goes_on(connection)
                    await fault(installation)
                    await faults.whole(installation)
                    print(f"{name}: every process is there again")
                await goes_on(connection)
        await eventually(partial(connection.fetchval, UNSETTLED), lambda count: count == 0)
        waiting = "SELECT * FROM chain_submissions WHERE state <> 'finalized'"
        await eventually(partial(connection.fetch, waiting), lambda rows: not rows)
        # what is final for the submitter may take the listener's next look to be taken up
        await eventually(partial(differences, connection, Chain(installation).url), lambda found: not found)
        await agreed(connection)
    finally:
        await connection.close()


async def goes_on(connection: "asyncpg.Connection[Any]") -> None:
    """The chain has taken up something since."""
    taken = "SELECT count(*) FROM chain_submissions WHERE state IN ('confirmed', 'finalized')"
    before = await connection.fetchval(taken)
    await eventually(partial(connection.fetchval, taken), lambda count: count >= before + DONE)


async def agreed(connection: "asyncpg.Connection[Any]") -> None:
    """The exchange has compared ledger and chain since, and found no difference."""
    count = "SELECT count(*) FROM reconciliations"
    before = await connection.fetchval(count)
    await eventually(partial(connection.fetchval, count), lambda now: now >= before + 2)
    last = "SELECT differences::text FROM reconciliations ORDER BY number DESC LIMIT 1"
    assert await connection.fetchval(last) == "[]"


@asynccontextmanager
async def loaded(installation: Installation) -> AsyncIterator[None]:
    """People who do everything that the chain must be told, until the block ends."""
    over = asyncio.Event()

    def people() -> tuple[Person, Person, str]:
        seller = installation.person().register(THB="1000", energy_Z1="1000")
        buyer = installation.person().register(THB="1000", energy_Z1="1000")
        return seller, buyer, linked(seller, Keypair())

    seller, buyer, wallet = await asyncio.to_thread(people)

    def once(number: int) -> None:
        seller.ask("POST", "/orders", order("sell", "3.000"))
        buyer.ask("POST", "/orders", order("buy", "3.600"))
        if number % 5 == 0:
            buyer.call("POST", "/deposits", {"asset": "THB", "amount": "4"})
        if number % 7 == 0:  # refused while nobody knows how the chain is
            asset = ("THB", "energy:Z1")[number % 2]
            seller.ask("POST", "/withdrawals", {"asset": asset, "amount": "0.5", "address": wallet})

    async def load() -> None:
        number = 0
        while not over.is_set():
            number += 1
            await asyncio.to_thread(once, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_SECONDS):
                    await over.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load())
        try:
            yield
        finally:
            over.set()


def order(side: str, price: str) -> dict[str, Any]:
    return {"market": "CAMPUS", "side": side, "type": "limit", "price": price, "quantity": "0.100"}


async def differences(connection: "asyncpg.Connection[Any]", url: str) -> list[str]:
    """Everything about which what was asked for and what the chain has for ever disagree."""
    rows = await connection.fetch("SELECT kind, key, payload ->> 'asset' AS asset FROM outbox")
    asked = Counter(row["kind"] for row in rows)
    async with RpcPool(RpcSettings(urls=(url,))) as rpc:
        reader = ChainReader(rpc, reference_programs(), ("ws://none",))
        mentions = {
            one.signature: one for program in reader.programs for one in await reader.mentions(program, "", final=True)
        }
        events = await reader.events_of(list(mentions.values()))
    names = Counter(event.name for event in events)
    given_energy = sum((row["asset"] or "").startswith("energy:") for row in rows if row["kind"] == "deposit_issued")
    found = [
        f"{name}: {names[name]} on the chain, {count} asked for"
        for name, count in {
            "UserRegistered": asked["user_registered"],
            "GenerationMinted": asked["energy_generated"] + given_energy,
            "EnergyRetired": asked["energy_retired"] + asked["energy_revoked"],
            "PricePublished": asked["oracle"],
            "Settled": asked["settle"],
            "Withdrawn": sum(asked[kind] for kind in GUARDED),
        }.items()
        if names[name] != count
    ]
    keys = sorted(f"{event.fields['id']}:{event.fields['part']}" for event in events if event.name == "Settled")
    if keys != sorted(row["key"] for row in rows if row["kind"] == "settle"):
        found.append("other parts of settlements than were asked for")
    ids = sorted(str(event.fields["id"]) for event in events if event.name == "Withdrawn")
    if ids != sorted(_guard(row["kind"], row["key"]) for row in rows if row["kind"] in GUARDED):
        found.append("other withdrawals than were asked for")
    heard = await connection.fetch("SELECT signature, instruction, index FROM chain_events WHERE state = 'finalized'")
    if sorted(map(tuple, heard)) != sorted(map(_place, events)):
        found.append(f"the listener took up {len(heard)} events, the chain has {len(events)}")
    if await connection.fetchval("SELECT count(*) FROM withdrawals WHERE done_us IS NULL"):
        found.append("a withdrawal is in custody still")
    return found


def _place(event: ChainEvent) -> tuple[str, int, int]:
    return event.signature, event.instruction, event.index


def _guard(kind: str, key: str) -> str:
    return hashlib.sha256(f"{kind}:{key}".encode()).digest()[:16].hex()
