"""Closed windows and adjustments become energy: windows, ledger, outbox and rollups in one transaction.

The rules are engine/metering/crediting.py's; here balances are locked and rows are written. The primary key of a
window, and a transfer's reference, are the rule that a kWh is generated once and retired once, whatever is repeated.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import asyncpg

from engine.metering.crediting import Due, Holder, Posting, Purse, post
from engine.metering.records import PostedWindow
from engine.metering.windows import WINDOW_US, Closing
from engine.units import SECOND_US
from persistence import outbox
from persistence.accounts import ENERGY_GENERATED, ENERGY_RETIRED, MAIN, AccountKey, AccountNumbers
from persistence.outbox import Order
from persistence.postgres import Connection, Pool

ADJUSTMENTS_AT_ONCE: Final = 500
_HOUR_US: Final = 3_600 * SECOND_US

# Whose it was at that time. A meter has been somebody's since the beginning of time.
HOLDERS = """
    /* energy_posting.holders */
    SELECT k.meter, k.start_us, uuid_send(m.meter_id) AS meter_id, m.verified_us IS NOT NULL AS verified, m.retires,
        a.owner_id, a.zone
    FROM unnest($1::bigint[], $2::bigint[]) AS k (meter, start_us)
    JOIN meters m ON m.number = k.meter
    CROSS JOIN LATERAL (
        SELECT owner_id, zone
        FROM meter_assignments
        WHERE meter = k.meter
            AND valid_from_us <= k.start_us
        ORDER BY valid_from_us DESC
        LIMIT 1
    ) a
"""
UNPOSTED = """
    /* energy_posting.unposted */
    SELECT meter, start_us, device, counter, import_wh, export_wh
    FROM energy_adjustments
    WHERE posted_us IS NULL
        AND meter = ANY($1::bigint[])
    ORDER BY meter, start_us, device, counter
    LIMIT $2
"""
LOCK_ACCOUNTS = """
    /* energy_posting.lock_accounts */
    SELECT account_id, balance
    FROM accounts
    WHERE account_id = ANY($1::bigint[])
    ORDER BY account_id
    FOR NO KEY UPDATE
"""
DEBTS = """
    /* energy_posting.debts */
    SELECT d.owner_id, d.zone, d.debt_wh
    FROM energy_debts d
    JOIN unnest($1::bigint[], $2::text[]) AS h (owner_id, zone) USING (owner_id, zone)
    ORDER BY d.owner_id, d.zone
    FOR UPDATE OF d
"""
PUT_DEBTS = """
    /* energy_posting.put_debts */
    INSERT INTO energy_debts (owner_id, zone, debt_wh)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[])
    ON CONFLICT (owner_id, zone) DO UPDATE SET debt_wh = EXCLUDED.debt_wh
"""
ADD_TRANSFERS = """
    /* energy_posting.add_transfers */
    INSERT INTO transfers (kind, reference, time_us)
    SELECT kind, reference, $3
    FROM unnest($1::text[], $2::text[]) AS t (kind, reference)
    RETURNING reference, transfer_id
"""
ADD_ENTRIES = """
    /* energy_posting.add_entries */
    INSERT INTO entries (transfer_id, account_id, participant_id, amount)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
"""
MARK_POSTED = """
    /* energy_posting.mark_posted */
    UPDATE energy_adjustments a
    SET owner_id = p.owner_id, zone = p.zone, credited_wh = p.credited_wh, retired_wh = p.retired_wh, posted_us = $11,
        import_estimated_wh = p.import_estimated_wh, export_estimated_wh = p.export_estimated_wh
    FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::bigint[])
        AS p (meter, start_us, device, counter, owner_id, zone, credited_wh, retired_wh, import_estimated_wh,
            export_estimated_wh)
    WHERE (a.meter, a.start_us, a.device, a.counter) = (p.meter, p.start_us, p.device, p.counter)
        AND a.posted_us IS NULL
"""
# Estimates that count until something of their window is measured.
ESTIMATES = """
    /* energy_posting.estimates */
    SELECT w.meter, w.start_us, w.import_estimated_wh, w.export_estimated_wh
    FROM unnest($1::bigint[], $2::bigint[]) AS k (meter, start_us)
    JOIN energy_windows w USING (meter, start_us)
    WHERE w.import_estimated_wh + w.export_estimated_wh > 0
        AND NOT EXISTS (
            SELECT 1 FROM energy_adjustments a WHERE a.meter = w.meter AND a.start_us = w.start_us AND posted_us > 0
        )
"""
ROLL_UP = "/* energy_posting.roll_up */ SELECT energy_roll_up($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_WINDOW: Final = (
    "meter",
    "start_us",
    "owner_id",
    "zone",
    "import_wh",
    "export_wh",
    "covered_us",
    "import_estimated_wh",
    "export_estimated_wh",
    "credited_wh",
    "retired_wh",
    "closed_us",
)


class EnergyPosting:
    """`post` writes on the fenced session of the readings, so that a window has one who closes it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._accounts = AccountNumbers(pool)

    async def post(
        self, session: Connection, closings: Sequence[Closing], adjusted: Collection[int], now_us: int
    ) -> tuple[list[PostedWindow], bool]:
        """Close these windows, and post adjustments of these meters, in one transaction.

        Returns what was posted, and whether all adjustments of these meters have been.
        """
        late = await self._pool.fetch(UNPOSTED, list(adjusted), ADJUSTMENTS_AT_ONCE) if adjusted else []
        if not closings and not late:
            return [], True
        owners = await self._owners([(one.meter, one.start_us) for one in closings], late)
        dues = [_due_of_window(one, owners[one.meter, one.start_us]) for one in closings]
        dues += [_due_of_adjustment(row, owners[row["meter"], row["start_us"]]) for row in late]
        ids = await self._accounts.of({key for due in dues for key in _accounts(due.holder)})
        async with session.transaction():
            purses = await self._purses(session, dues, ids)
            owed = {holder: purse.debt_wh for holder, purse in purses.items()}
            postings = post(dues, purses)
            windows, adjustments = postings[: len(closings)], postings[len(closings) :]
            await self._write_windows(session, closings, windows, now_us)
            undone = await _undone_estimates(session, late)
            if late:
                await self._mark(session, late, adjustments, undone, now_us)
            await _roll_up(session, closings, windows, adjustments, undone)
            await _move(session, postings, ids, now_us)
            changed = [(*holder, purse.debt_wh) for holder, purse in purses.items() if purse.debt_wh != owed[holder]]
            if changed:
                await session.execute(PUT_DEBTS, *map(list, zip(*changed, strict=True)))
        posted = [_posted(one, owners, False) for one in windows] + [_posted(one, owners, True) for one in adjustments]
        return posted, len(late) < ADJUSTMENTS_AT_ONCE

    async def _owners(
        self, windows: list[tuple[int, int]], late: list[asyncpg.Record]
    ) -> dict[tuple[int, int], asyncpg.Record]:
        keys = {*windows, *((row["meter"], row["start_us"]) for row in late)}
        rows = await self._pool.fetch(HOLDERS, *map(list, zip(*keys, strict=True)))
        owners = {(row["meter"], row["start_us"]): row for row in rows}
        assert owners.keys() == keys, "a meter has an owner at any time"
        return owners

    async def _purses(
        self, session: Connection, dues: Sequence[Due], ids: dict[AccountKey, int]
    ) -> dict[Holder, Purse]:
        """What each holder has and owes, locked until the transaction ends."""
        rows = await session.fetch(LOCK_ACCOUNTS, sorted(ids.values()))
        balances: dict[int, int] = {row["account_id"]: row["balance"] for row in rows}
        holders = sorted({due.holder for due in dues})
        purses = {holder: Purse(balances[ids[_accounts(holder)[1]]]) for holder in holders}
        for owner_id, zone, debt_wh in await session.fetch(DEBTS, *map(list, zip(*holders, strict=True))):
            purses[owner_id, zone].debt_wh = debt_wh
        return purses

    async def _write_windows(
        self, session: Connection, closings: Sequence[Closing], postings: Sequence[Posting], now_us: int
    ) -> None:
        rows = [
            (
                one.meter,
                one.start_us,
                *posting.due.holder,
                one.import_wh,
                one.export_wh,
                one.covered_us,
                one.import_estimated_wh,
                one.export_estimated_wh,
                posting.credited_wh,
                posting.retired_wh,
                now_us,
            )
            for one, posting in zip(closings, postings, strict=True)
        ]
        if rows:
            await session.copy_records_to_table("energy_windows", records=rows, columns=_WINDOW)

    async def _mark(
        self,
        session: Connection,
        late: list[asyncpg.Record],
        postings: Sequence[Posting],
        undone: Sequence[tuple[int, int]],
        now_us: int,
    ) -> None:
        rows = [
            (
                row["meter"],
                row["start_us"],
                row["device"],
                row["counter"],
                *posting.due.holder,
                posting.credited_wh,
                posting.retired_wh,
                *estimates,
            )
            for row, posting, estimates in zip(late, postings, undone, strict=True)
        ]
        done = await session.execute(MARK_POSTED, *map(list, zip(*rows, strict=True)), now_us)
        assert done == f"UPDATE {len(rows)}", "an adjustment is posted once"


def _due_of_window(closing: Closing, owner: asyncpg.Record) -> Due:
    return _due(closing.meter, closing.start_us, closing.import_wh, closing.export_wh, owner, "")


def _due_of_adjustment(row: asyncpg.Record, owner: asyncpg.Record) -> Due:
    suffix = f":{row['device']}:{row['counter']}"
    return _due(row["meter"], row["start_us"], row["import_wh"], row["export_wh"], owner, suffix)


def _due(meter: int, start_us: int, import_wh: int, export_wh: int, owner: asyncpg.Record, suffix: str) -> Due:
    holder = (owner["owner_id"], owner["zone"])
    cause = f"{meter}:{start_us // SECOND_US}{suffix}"
    return Due(meter, start_us, holder, import_wh, export_wh, owner["verified"], owner["retires"], cause)


def _accounts(holder: Holder) -> tuple[AccountKey, AccountKey, AccountKey]:
    owner_id, zone = holder
    asset = f"energy:{zone}"
    return (
        AccountKey(0, ENERGY_GENERATED, 0, asset),
        AccountKey(owner_id, MAIN, 0, asset),
        AccountKey(0, ENERGY_RETIRED, 0, asset),
    )


async def _move(session: Connection, postings: Sequence[Posting], ids: dict[AccountKey, int], now_us: int) -> None:
    """Transfers with their entries, and the chain's orders for the same."""
    moves = [
        (kind, f"{kind}:{posting.due.cause}", posting, source, target, amount)
        for posting in postings
        for kind, source, target, amount in _moves(posting)
    ]
    if not moves:
        return
    rows = await session.fetch(ADD_TRANSFERS, [move[0] for move in moves], [move[1] for move in moves], now_us)
    numbers = {row["reference"]: row["transfer_id"] for row in rows}
    entries = [
        (numbers[reference], ids[key], key.participant_id, change)
        for _, reference, _, source, target, amount in moves
        for key, change in ((source, -amount), (target, amount))
    ]
    await session.execute(ADD_ENTRIES, *map(list, zip(*entries, strict=True)))
    orders = [Order(kind, posting.due.cause, _payload(posting.due, amount)) for kind, _, posting, _, _, amount in moves]
    await outbox.add(session, orders, now_us)


def _moves(posting: Posting) -> list[tuple[str, AccountKey, AccountKey, int]]:
    generated, main, retired = _accounts(posting.due.holder)
    moves = []
    if posting.credited_wh > 0:
        moves.append(("energy_generated", generated, main, posting.credited_wh))
    elif posting.credited_wh < 0:
        moves.append(("energy_revoked", main, generated, -posting.credited_wh))
    if posting.retired_wh:
        moves.append(("energy_retired", main, retired, posting.retired_wh))
    return moves


def _payload(due: Due, amount_wh: int) -> dict[str, Any]:
    owner_id, zone = due.holder
    return {
        "meter": due.meter,
        "window_us": due.window_us,
        "owner_id": owner_id,
        "zone": zone,
        "amount_wh": amount_wh,
    }


async def _undone_estimates(session: Connection, late: list[asyncpg.Record]) -> list[tuple[int, int]]:
    """For each adjustment what it takes of its window's estimates: all, if it is the first one there; zero or less."""
    if not late:
        return []
    keys = {(row["meter"], row["start_us"]) for row in late}
    rows = await session.fetch(ESTIMATES, *map(list, zip(*keys, strict=True)))
    estimates = {(row[0], row[1]): (-row[2], -row[3]) for row in rows}
    return [estimates.pop((row["meter"], row["start_us"]), (0, 0)) for row in late]


async def _roll_up(
    session: Connection,
    closings: Sequence[Closing],
    windows: Sequence[Posting],
    adjustments: Sequence[Posting],
    undone: Sequence[tuple[int, int]],
) -> None:
    rows = [
        _rolled(posting, (one.import_estimated_wh, one.export_estimated_wh), _power_w(one))
        for one, posting in zip(closings, windows, strict=True)
    ]
    rows += [_rolled(posting, estimates, 0) for posting, estimates in zip(adjustments, undone, strict=True)]
    await session.execute(ROLL_UP, *map(list, zip(*rows, strict=True)))


def _rolled(posting: Posting, estimated_wh: tuple[int, int], power_w: int) -> tuple[int | str, ...]:
    due = posting.due
    return (
        due.meter,
        due.window_us,
        *due.holder,
        due.import_wh,
        due.export_wh,
        *estimated_wh,
        posting.credited_wh,
        posting.retired_wh,
        power_w,
    )


def _power_w(closing: Closing) -> int:
    return max(closing.import_wh, closing.export_wh) * _HOUR_US // WINDOW_US


def _posted(posting: Posting, owners: dict[tuple[int, int], asyncpg.Record], is_adjustment: bool) -> PostedWindow:
    due = posting.due
    return PostedWindow(
        meter=due.meter,
        meter_id=owners[due.meter, due.window_us]["meter_id"],
        start_us=due.window_us,
        owner_id=due.holder[0],
        zone=due.holder[1],
        import_wh=due.import_wh,
        export_wh=due.export_wh,
        credited_wh=posting.credited_wh,
        retired_wh=posting.retired_wh,
        is_adjustment=is_adjustment,
    )
