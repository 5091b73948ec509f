"""The audit: everything that was acknowledged, executed and booked, held against a replay of the journals.

It replays each market from its first entry, proving the hash chain and the effects of every row, and compares with what
the tables say at the same sequence: orders, trades, reservations, balances, certificates of auctions, which it checks
too. With a client's own log of acknowledgements it also proves that nothing acknowledged was lost and nothing was done
twice. It only reads.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Protocol

import msgspec
from msgspec import Struct

from actors.ports import Journal, Snapshots
from actors.recovery import ROWS_AT_ONCE, Replica, advance, recover
from engine.auction.certificate import problems
from engine.book import state
from engine.book.answers import order_view
from engine.book.order_book import OrderBook
from engine.journal import JournalBroken
from engine.market import MarketSpec
from engine.messages import (
    CURRENCY,
    Defunded,
    Entry,
    EpochCleared,
    Event,
    Funded,
    OrderAccepted,
    OrderEnded,
    PlaceOrder,
    SpecChanged,
    Traded,
)
from engine.records import MarketBalance, TradeTotals, TrialLine
from engine.views import OrderView

FINDINGS_MAX = 50
COMPARISONS_MAX = 10  # a market that trades moves on while it is compared


class Tables(Protocol):
    """What the audit reads of the projections and the ledger."""

    async def cursor(self, market_id: int) -> int: ...
    async def open_orders(self, market_id: int) -> list[OrderView]: ...
    async def count_orders(self, market_id: int) -> int: ...
    async def trade_totals(self, market_id: int) -> TradeTotals: ...
    async def certificates(self, market_id: int) -> dict[int, bytes]: ...
    async def market_balances(self, market_id: int) -> list[MarketBalance]: ...
    async def drawn_after(self, market_id: int, number: int) -> list[tuple[int, str, int]]: ...
    async def unbalanced_transfers(self) -> int: ...
    async def accounts_off_their_entries(self) -> int: ...
    async def trial_balance(self) -> list[TrialLine]: ...


class Acknowledged(Struct, frozen=True):
    """What a client was told, in the engine's units."""

    participant_id: int
    market_id: int
    order_id: int
    client_order_id: str
    sequence: int
    quantity_wh: int
    trades: tuple[int, ...] = ()


class Report(Struct):
    """What was looked at, and every violation; none is the only good number."""

    markets: int = 0
    entries: int = 0
    snapshots: int = 0
    orders: int = 0
    trades: int = 0
    auctions: int = 0
    acknowledgements: int = 0
    meters: int = 0
    readings: int = 0  # in force
    windows: int = 0
    acknowledged_readings: int = 0
    violations: list[str] = []

    def found(self, where: str, what: str) -> None:
        if len(self.violations) < FINDINGS_MAX:
            self.violations.append(f"{where}: {what}")


class Replay(Struct, frozen=True):
    """One market's journal from its first entry to its last, and what in it breaks the laws of a book."""

    book: OrderBook
    violations: list[str]


class _History:
    """What one market went through, gathered during the replay."""

    def __init__(self, book: OrderBook) -> None:
        self._book = book  # as of the entry that is visited
        self.certificates: dict[int, bytes] = {}  # SHA-256, by the epoch's start
        self.false_certificates: list[str] = []
        self.placed: dict[int, PlaceOrder] = {}
        self.doubled: list[str] = []  # client_order_ids that were executed again while they were known
        self.ended: Counter[int] = Counter()
        self._kept = book.spec.closed_orders_kept
        self._by_client_id: dict[tuple[int, str], int] = {}  # the newest order of each
        self._end_numbers: dict[int, int] = {}  # of ended orders: 1, 2, 3, ... in the order of their ends
        self._forgotten = 0  # orders up to this end number may have been forgotten, with their client_order_ids
        self.trades: dict[int, Traded] = {}
        self.traded_wh: Counter[int] = Counter()
        self.funded: Counter[str] = Counter()
        self.fees_micro = self.grid_micro = 0

    def visit(self, entry: Entry, events: list[Event]) -> None:
        for event in events:
            match event:
                case OrderAccepted():
                    assert isinstance(entry.command, PlaceOrder)
                    self.placed[event.order_id] = entry.command
                    self._note_client_id(entry.command, event.order_id)
                case OrderEnded():
                    self.ended[event.order_id] += 1
                    self._end_numbers.setdefault(event.order_id, len(self._end_numbers) + 1)
                    self._forgotten = max(self._forgotten, len(self._end_numbers) - self._kept)
                case SpecChanged():
                    self._kept = event.spec.closed_orders_kept
                    self._forgotten = max(self._forgotten, len(self._end_numbers) - self._kept)
                case Traded():
                    self.trades[event.number] = event
                    self.traded_wh[event.maker_order_id] += event.energy_wh
                    self.traded_wh[event.taker_order_id] += event.energy_wh
                    self.fees_micro += event.buyer_fee_micro + event.seller_fee_micro
                    self.grid_micro += event.grid_micro
                case EpochCleared() if event.orders:
                    self._check_certificate(event)
                case Funded():
                    self.funded[event.asset] += event.amount
                case Defunded():
                    self.funded[event.asset] -= event.amount

    def _check_certificate(self, cleared: EpochCleared) -> None:
        """Whether it proves the result that the journal's events bind, from the orders that the journal has."""
        certificate = self._book.certificate
        assert certificate is not None
        where = f"the auction of {cleared.start_us}"
        if cleared.start_us in self.certificates:
            self.false_certificates.append(f"{where} was cleared twice")
        self.certificates[cleared.start_us] = sha256(msgspec.json.encode(certificate)).digest()
        if certificate.orders_hash != cleared.orders_hash:
            self.false_certificates.append(f"{where}: its certificate is of other orders")
        self.false_certificates += [f"{where}: {problem}" for problem in problems(certificate)]

    def _note_client_id(self, command: PlaceOrder, order_id: int) -> None:
        """A client_order_id is known while its order is open or among the newest ended ones; then it is free again."""
        if not command.client_order_id:
            return
        key = (command.participant_id, command.client_order_id)
        before = self._by_client_id.get(key)
        if before is not None and self._end_numbers.get(before, self._forgotten + 1) > self._forgotten:
            self.doubled.append(
                f"participant {key[0]}'s {key[1]} was executed as order {before} and again as order {order_id}"
            )
        self._by_client_id[key] = order_id


async def audit(
    markets: Iterable[MarketSpec],
    journal: Journal,
    snapshots: Snapshots,
    tables: Tables,
    currency: str,
    acknowledged: Iterable[Acknowledged] = (),
) -> Report:
    """Check every market and the ledger; the report lists what does not fit.

    Markets may be trading meanwhile: each is compared at the sequence its projections have reached.
    """
    report = Report()
    by_market: dict[int, list[Acknowledged]] = {}
    for one in acknowledged:
        by_market.setdefault(one.market_id, []).append(one)
    for spec in markets:
        report.markets += 1
        await _audit_market(spec, journal, snapshots, tables, currency, by_market.pop(spec.market_id, []), report)
    for market_id, lost in by_market.items():
        report.found(f"market {market_id}", f"{len(lost)} acknowledgements, but there is no such market")
    await _audit_ledger(tables, report)
    return report


async def verify(
    spec: MarketSpec, journal: Journal, snapshots: Snapshots, progress: Callable[[int], None] | None = None
) -> Replay:
    """Replay one market offline: hash chain, effects, state hashes, then the laws of the book that comes of it.

    `progress` hears the sequence that was reached. Raises JournalBroken, NothingToRecover.
    """
    report = Report()
    replica = await recover(spec.market_id, journal, snapshots, up_to=0)
    seen = _History(replica.book)
    while rows := await journal.rows(spec.market_id, replica.book.sequence, ROWS_AT_ONCE):
        for row in rows:
            advance(replica, row, seen.visit)
        if progress is not None:
            progress(replica.book.sequence)
    _compare_book(spec.symbol, replica.book, seen, report)
    _report_seen(spec.symbol, seen, report)
    return Replay(replica.book, report.violations)


async def _audit_market(
    spec: MarketSpec,
    journal: Journal,
    snapshots: Snapshots,
    tables: Tables,
    currency: str,
    acknowledged: list[Acknowledged],
    report: Report,
) -> None:
    where = spec.symbol
    try:
        replica = await recover(spec.market_id, journal, snapshots, up_to=0)
        seen = _History(replica.book)
        for _ in range(COMPARISONS_MAX):
            replica = await _replay(spec.market_id, journal, replica, seen, await tables.cursor(spec.market_id))
            if await _compare_tables(where, spec.market_id, replica.book, seen, tables, currency, report):
                break
        else:
            report.found(where, "its projections never stood still long enough to be compared; pause the trading")
        _compare_book(where, replica.book, seen, report)
        await _compare_snapshots(where, spec.market_id, journal, snapshots, report)
        if acknowledged:  # what was acknowledged may be newer than the projections
            replica = await _replay(spec.market_id, journal, replica, seen, None)
        _compare_acknowledged(where, replica.book, seen, acknowledged, report)
        _report_seen(where, seen, report)
    except JournalBroken as error:
        report.found(where, str(error))
        return
    report.entries += replica.book.sequence
    report.orders += len(seen.placed)
    report.trades += len(seen.trades)
    report.auctions += len(seen.certificates)


async def _replay(
    market_id: int, journal: Journal, replica: Replica, seen: _History | None, up_to: int | None
) -> Replica:
    while up_to is None or replica.book.sequence < up_to:
        rows = await journal.rows(market_id, replica.book.sequence, ROWS_AT_ONCE)
        if not rows:
            break
        for row in rows:
            if up_to is not None and row.first_sequence > up_to:
                break
            advance(replica, row, seen.visit if seen is not None else None)
    return replica


def _compare_book(where: str, book: OrderBook, seen: _History, report: Report) -> None:
    """Laws that hold in every book: each order ends at most once, trades at most its quantity, nothing is created."""
    for order_id, times in seen.ended.items():
        if times > 1:
            report.found(where, f"order {order_id} ended {times} times")
    for order_id, traded_wh in seen.traded_wh.items():
        order = book.orders.get(order_id) or book.closed.get(order_id)
        if order is not None and order.filled_wh != traded_wh:
            report.found(where, f"order {order_id} says {order.filled_wh} Wh filled, its trades {traded_wh} Wh")
    held: Counter[str] = Counter()
    for account in book.accounts.values():
        for asset in account.assets():
            held[asset] += account.free(asset) + account.reserved(asset)
    if held[CURRENCY] + book.fees_micro + sum(book.grid_micro.values()) != seen.funded[CURRENCY]:
        report.found(where, "money in the market is not what was moved in, less fees and grid charges")
    if sum(held.values()) - held[CURRENCY] != sum(seen.funded.values()) - seen.funded[CURRENCY]:
        report.found(where, "energy in the market is not what was moved in")


def _report_seen(where: str, seen: _History, report: Report) -> None:
    for what in (*seen.doubled, *seen.false_certificates):
        report.found(where, what)


async def _compare_tables(
    where: str, market_id: int, book: OrderBook, seen: _History, tables: Tables, currency: str, report: Report
) -> bool:
    """Compare with the projections; False when they moved on while they were read."""
    mine = {order.order_id: order_view(order) for order in book.orders.values()}
    theirs = {order.order_id: order for order in await tables.open_orders(market_id)}
    orders, totals = await tables.count_orders(market_id), await tables.trade_totals(market_id)
    balances, certificates = await tables.market_balances(market_id), await tables.certificates(market_id)
    drawn = await tables.drawn_after(market_id, book.fund_number)
    if await tables.cursor(market_id) != book.sequence:
        return False
    for order_id in mine.keys() ^ theirs.keys():
        report.found(where, f"order {order_id} is open in {'the journal' if order_id in mine else 'the table'} only")
    for order_id in mine.keys() & theirs.keys():
        if mine[order_id] != theirs[order_id]:
            report.found(where, f"order {order_id} differs between journal and table")
    if orders != len(seen.placed):
        report.found(where, f"{len(seen.placed)} orders in the journal, {orders} in the table")
    replayed = TradeTotals(
        len(seen.trades),
        sum(trade.energy_wh for trade in seen.trades.values()),
        sum(trade.buyer_value_micro for trade in seen.trades.values()),
        sum(trade.seller_value_micro for trade in seen.trades.values()),
        seen.fees_micro,
    )
    if replayed != totals:
        report.found(where, f"trades in the journal {replayed}, in the table {totals}")
    for start_us in sorted(seen.certificates.keys() | certificates.keys()):
        if seen.certificates.get(start_us) != certificates.get(start_us):
            report.found(where, f"the certificate of the auction of {start_us} is not that of the journal")
    _compare_balances(where, book, balances, drawn, currency, report)
    return True


def _compare_balances(
    where: str,
    book: OrderBook,
    balances: list[MarketBalance],
    drawn: list[tuple[int, str, int]],
    currency: str,
    report: Report,
) -> None:
    """The ledger's market accounts are what the book holds, and what is on its way into it."""
    expected: Counter[tuple[int, str]] = Counter()
    reserved: Counter[tuple[int, str]] = Counter()
    for account in book.accounts.values():
        for asset in account.assets():
            name = currency if asset == CURRENCY else f"energy:{asset}"
            expected[account.participant_id, name] += account.free(asset) + account.reserved(asset)
            reserved[account.participant_id, name] += account.reserved(asset)
    for participant_id, name, amount in drawn:
        expected[participant_id, name] += amount
    for balance in balances:
        key = (balance.participant_id, balance.asset)
        if balance.balance != expected.pop(key, 0) or balance.reserved != reserved.pop(key, 0):
            report.found(where, f"participant {balance.participant_id}'s {balance.asset} differs from the ledger")
    for (participant_id, name), amount in expected.items():
        if amount:
            report.found(where, f"participant {participant_id}'s {amount} of {name} is not in the ledger")


async def _compare_snapshots(
    where: str, market_id: int, journal: Journal, snapshots: Snapshots, report: Report
) -> None:
    """Every snapshot is the state that a replay reaches."""
    kept = [snapshot.sequence async for snapshot in snapshots.newest_first(market_id) if snapshot.sequence]
    if not kept:
        return
    replica = await recover(market_id, journal, snapshots, up_to=0)
    for sequence in sorted(kept):
        await _replay(market_id, journal, replica, None, sequence)
        async for snapshot in snapshots.newest_first(market_id, sequence):
            if snapshot.sequence == sequence:
                report.snapshots += 1
                if state.state_hash(state.encode(replica.book)) != snapshot.state_hash:
                    report.found(where, f"the snapshot at sequence {sequence} is not the state that a replay reaches")
            break


def _compare_acknowledged(
    where: str, book: OrderBook, seen: _History, acknowledged: list[Acknowledged], report: Report
) -> None:
    """Nothing that a client was told is missing."""
    report.acknowledgements += len(acknowledged)
    for one in acknowledged:
        placed = seen.placed.get(one.order_id)
        name = f"acknowledged order {one.order_id}"
        if one.sequence > book.sequence:
            report.found(where, f"{name}: sequence {one.sequence} is not in the journal")
        elif placed is None:
            report.found(where, f"{name} is not in the journal")
        elif placed.participant_id != one.participant_id or placed.client_order_id != one.client_order_id:
            report.found(where, f"{name} belongs to somebody else, or has another client_order_id")
        for number in one.trades:
            trade = seen.trades.get(number)
            if trade is None or one.order_id not in (trade.maker_order_id, trade.taker_order_id):
                report.found(where, f"{name}: its trade {number} is not in the journal")


async def _audit_ledger(tables: Tables, report: Report) -> None:
    if unbalanced := await tables.unbalanced_transfers():
        report.found("ledger", f"{unbalanced} transfers do not sum to zero")
    if off := await tables.accounts_off_their_entries():
        report.found("ledger", f"{off} accounts are not the sum of their entries")
    sums: Counter[str] = Counter()
    for line in await tables.trial_balance():
        sums[line.asset] += line.amount
    for asset, amount in sums.items():
        if amount:
            report.found("ledger", f"{asset} sums to {amount}, not to zero")
