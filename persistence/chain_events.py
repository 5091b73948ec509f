"""What happened on the chain, each event once; what is final means something here: a deposit becomes money or energy.

Rule: an event is taken up in the transaction that moves the cursor past it. A deposit is shown when it is confirmed,
and credited when it is final, because what was credited can be spent, and then no fork could undo it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from engine.audit import SYSTEM
from engine.submission import ChainEvent, Mention
from persistence.accounts import CURRENCY_ISSUED, ENERGY_GENERATED, MAIN, AccountKey, AccountNumbers, is_energy
from persistence.ledger import add_deposit
from persistence.postgres import OUTAGES, Pool, PooledConnection
from persistence.submissions import SAY

ENERGY_ASSET: Final = 0  # as the trading program numbers it; the other is the currency

_EVENT: Final = "signature, instruction, index, slot, program, name, fields::text"
CURSORS = "/* chain_events.cursors */ SELECT program, signature FROM chain_cursors"
KNOWN = f"""
    /* chain_events.known */
    SELECT {_EVENT}
    FROM chain_events
    WHERE signature = ANY($1::text[])
        AND state <> 'dropped'
    ORDER BY signature, instruction, index
"""  # noqa: S608 - constants of this file; values are parameters
_ROWS: Final = """
    unnest($1::text[], $2::integer[], $3::integer[], $4::bigint[], $5::text[], $6::text[], $7::text[])
        AS e (signature, instruction, index, slot, program, name, fields)
"""
NOTE = f"""
    /* chain_events.note */
    INSERT INTO chain_events AS c (signature, instruction, index, slot, program, name, fields, state, seen_us)
    SELECT signature, instruction, index, slot, program, name, fields::jsonb, 'confirmed', $8
    FROM {_ROWS}
    ON CONFLICT ON CONSTRAINT chain_events_place DO UPDATE
        SET slot = EXCLUDED.slot, fields = EXCLUDED.fields, state = 'confirmed'
        WHERE c.state <> 'finalized'
            AND (c.state, c.slot) <> ('confirmed', EXCLUDED.slot)
"""  # noqa: S608
FINALIZE = f"""
    /* chain_events.finalize */
    INSERT INTO chain_events AS c (signature, instruction, index, slot, program, name, fields, state, seen_us, final_us)
    SELECT signature, instruction, index, slot, program, name, fields::jsonb, 'finalized', $8, $8
    FROM {_ROWS}
    ON CONFLICT ON CONSTRAINT chain_events_place DO UPDATE
        SET slot = EXCLUDED.slot, fields = EXCLUDED.fields, state = 'finalized', final_us = EXCLUDED.final_us
        WHERE c.state <> 'finalized'
    RETURNING {_EVENT}
"""  # noqa: S608
MOVE_CURSORS = """
    /* chain_events.move_cursors */
    INSERT INTO chain_cursors AS c (program, signature, slot, at_us)
    SELECT program, signature, slot, $4
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS m (program, signature, slot)
    ON CONFLICT (program) DO UPDATE
        SET signature = EXCLUDED.signature, slot = EXCLUDED.slot, at_us = EXCLUDED.at_us
        WHERE c.slot <= EXCLUDED.slot
"""
DROP = """
    /* chain_events.drop */
    UPDATE chain_events
    SET state = 'dropped'
    WHERE state = 'confirmed'
        AND slot <= $1
        AND seen_us < $2
"""
OWNERS = """
    /* chain_events.owners */
    SELECT a.vault, a.user_id, u.zone
    FROM chain_accounts a
    JOIN users u USING (user_id)
    WHERE a.vault = ANY($1::text[])
"""

log = structlog.get_logger()


class Credit(msgspec.Struct, frozen=True):
    """A deposit that the ledger must have."""

    event: ChainEvent
    user_id: int
    asset: str

    @property
    def amount(self) -> int:
        return int(self.event.fields["amount"])

    @property
    def reference(self) -> str:
        return f"chain:{self.event.signature}:{self.event.instruction}:{self.event.index}"

    @property
    def accounts(self) -> tuple[AccountKey, AccountKey]:
        source = ENERGY_GENERATED if is_energy(self.asset) else CURRENCY_ISSUED
        return AccountKey(0, source, 0, self.asset), AccountKey(self.user_id, MAIN, 0, self.asset)


class PostgresChainEvents:
    def __init__(self, pool: Pool, currency: str) -> None:
        self._pool, self._currency = pool, currency
        self._accounts = AccountNumbers(pool)

    @property
    def outages(self) -> tuple[type[Exception], ...]:
        return (*OUTAGES, TimeoutError)

    async def cursors(self) -> dict[str, str]:
        """By program, the signature up to which its final history has been taken up."""
        return {row["program"]: row["signature"] for row in await self._pool.fetch(CURSORS)}

    async def known(self, signatures: Sequence[str]) -> dict[str, list[ChainEvent]]:
        """Events of these transactions, as far as they are here and were not dropped."""
        found: dict[str, list[ChainEvent]] = {}
        for row in await self._pool.fetch(KNOWN, list(signatures)):
            found.setdefault(row["signature"], []).append(_event(row))
        return found

    async def note(self, events: Sequence[ChainEvent], now_us: int) -> int:
        """Events that are confirmed; how many of them are news."""
        if not events:
            return 0
        return _count(await self._pool.execute(NOTE, *_columns(events), now_us))

    async def take_up(self, events: Sequence[ChainEvent], cursors: dict[str, Mention], now_us: int) -> int:
        """Events that are final, with what they mean, and the cursors behind them; how many are news."""
        credits_ = await self._credits(events)
        ids = await self._accounts.of({key for credit in credits_ for key in credit.accounts})
        moves = [(program, mention.signature, mention.slot) for program, mention in cursors.items()]
        async with self._pool.acquire() as connection, connection.transaction():
            fresh = await connection.fetch(FINALIZE, *_columns(events), now_us) if events else []
            news = {(row["signature"], row["instruction"], row["index"]) for row in fresh}
            if moves:
                await connection.execute(MOVE_CURSORS, *map(list, zip(*moves, strict=True)), now_us)
            for credit in credits_:
                if (credit.event.signature, credit.event.instruction, credit.event.index) in news:
                    await _credit(connection, credit, ids, now_us)
        return len(news)

    async def drop(self, slot_final: int, now_us: int) -> int:
        """What was confirmed in slots that are final by now, and is not final, is gone."""
        return _count(await self._pool.execute(DROP, slot_final, now_us))

    async def say(self, part: str, said: dict[str, Any], now_us: int) -> None:
        await self._pool.execute(SAY, part, now_us, msgspec.json.encode(said).decode())

    async def _credits(self, events: Sequence[ChainEvent]) -> list[Credit]:
        deposits = [event for event in events if (event.program, event.name) == ("trading", "Deposited")]
        rows = await self._pool.fetch(OWNERS, [event.fields["vault"] for event in deposits]) if deposits else []
        owners = {row["vault"]: row for row in rows}
        found = []
        for event in deposits:
            owner = owners.get(event.fields["vault"])
            if owner is None:
                log.warning("chain.deposit_of_nobody", vault=event.fields["vault"], signature=event.signature)
                continue
            energy = event.fields["asset"] == ENERGY_ASSET
            found.append(Credit(event, owner["user_id"], f"energy:{owner['zone']}" if energy else self._currency))
        return found


async def _credit(connection: PooledConnection, credit: Credit, ids: dict[AccountKey, int], now_us: int) -> None:
    source, target = credit.accounts
    await add_deposit(
        connection,
        (ids[source], ids[target]),
        credit.user_id,
        credit.asset,
        credit.amount,
        credit.reference,
        now_us,
        SYSTEM,
    )


def _columns(events: Sequence[ChainEvent]) -> list[list[Any]]:
    rows = [
        (e.signature, e.instruction, e.index, e.slot, e.program, e.name, msgspec.json.encode(e.fields).decode())
        for e in events
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _event(row: Any) -> ChainEvent:
    signature, instruction, index, slot, program, name, fields = row
    return ChainEvent(signature, instruction, index, slot, program, name, msgspec.json.decode(fields))


def _count(tag: str) -> int:
    """Rows of a command's answer, such as "UPDATE 3"."""
    return int(tag.rpartition(" ")[2])
