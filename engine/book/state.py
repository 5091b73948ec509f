"""The canonical form of an order book: one sequence of bytes for one state, for snapshots and for comparing replicas.

`encode` lists everything that a future entry could depend on, each list in an order that follows from the state alone.
What can be derived (price levels, agenda, lanes' remaining capacity) is left out and made anew by `decode`.

`digest` tells two states apart without listing them. A market takes it whenever an epoch opens, while orders wait, and
nearly all of its orders are then as they were the last time: each keeps its own digest, and only those that changed
since are encoded again. Those of ended orders are taken as they end, a few after each commit (`digest_some`).
"""

import hashlib
from collections.abc import Collection
from typing import Final

import msgspec
from msgspec import Raw, Struct

from engine.accounts import Account, FeeRates, fees_of
from engine.auction.certificate import Published
from engine.auction.epoch import outcome_of
from engine.auction.orders import Rules
from engine.book.call import Call
from engine.book.order_book import OrderBook
from engine.book.side import Order
from engine.market import MarketSpec, Phase, RiskLimits
from engine.messages import EndReason, PlaceOrder


class OrderState(Struct, array_like=True, gc=False):
    order_id: int
    placed: PlaceOrder
    price_micro: int
    quantity_wh: int
    remaining_wh: int
    filled_wh: int
    value_micro: int
    maker_fee_bps: int
    taker_fee_bps: int
    fee_numerator: int
    reserved_micro: int
    priority: int
    expires_us: int
    created_us: int
    updated_us: int
    updated_sequence: int
    end_reason: int
    stop_micro: int = 0
    is_waiting: bool = False
    auction_fee_bps: int = 0


class AccountState(Struct, array_like=True, gc=False):
    participant_id: int
    cash_free: int
    cash_reserved: int
    energy_free: list[tuple[str, int]]
    energy_reserved: list[tuple[str, int]]
    own_fees: tuple[int, int] | None
    dead_man_us: int
    limits: RiskLimits | None = None
    is_blocked: bool = False
    net_wh: int = 0


class CallState(Struct, array_like=True):
    """result: once the first trades are made; orders: ids of those that stay as they are until the last is made."""

    start_us: int
    rules: Rules
    zones: tuple[str, ...]
    orders: list[int]
    deferred: list[tuple[int, EndReason]]  # in the order in which they came
    result: Published | None
    done: int


class BookState(Struct, array_like=True):
    """Append fields with defaults; never reorder: old snapshots must stay readable."""

    spec: MarketSpec
    phase: Phase
    sequence: int
    time_us: int
    epoch_start_us: int
    trades: int
    fund_number: int
    defund_number: int
    fees_micro: int
    grid_micro: list[tuple[str, int]]
    last_price_micro: int
    reference_price_micro: int
    minutes: list[list[int]]
    lanes_used: list[tuple[str, str, int]]
    blocked: list[int]
    accounts: list[AccountState]
    orders: list[Raw]  # OrderState of the open ones, by id
    closed: list[Raw]  # and of those that ended, in the order in which they did
    triggered: list[int] = []  # stop orders that a FireStop each lets into the book
    halt_until_us: int = 0
    reopening_micro: int = 0
    call: CallState | None = None


class StateUnreadable(Exception):
    """These bytes are no state of an order book."""


DIGESTS: Final = 2**256
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(BookState).decode
_decode_order = msgspec.msgpack.Decoder(OrderState).decode


def encode(book: OrderBook) -> bytes:
    """The book as bytes; equal states give equal bytes. Two replicas that applied the same entries are equal states."""
    call = _call_state(book.call) if book.call is not None else None
    return _encode(_book_state(book, _encoded(book.orders.values()), _encoded(book.closed.values()), call))


def digest(book: OrderBook) -> bytes:
    """32 bytes that are the same for books of which `encode` gives the same, and for no others that chance will find.

    SHA-256 of everything but the orders, and of the sum of the SHA-256 of each: a sum, because an order that ends or
    is forgotten then changes it by itself. It finds replicas that went apart; proof against people is the journal's
    chain. Source: docs/decisions/0052.
    """
    digest_some(book, len(book.undigested))
    orders = sum(_digests(book.orders.values()), book.closed_digest) % DIGESTS
    call, cleared = book.call, None
    if call is not None and call.outcome is not None:
        cleared = call.outcome.cleared  # has the hash of all that went in; what came out follows from that
    rest = _book_state(book, [], [], _call_state(call, with_result=False) if call is not None else None)
    return state_hash(_encode((rest, cleared)) + orders.to_bytes(32, "big"))


def digest_some(book: OrderBook, at_most: int) -> None:
    """Digest the oldest of the ended orders that are not yet. Where an entry is being applied, none is final."""
    ended = book.undigested
    for _ in range(min(at_most, len(ended))):
        book.closed_digest += _digest(ended.popleft())


def digest_ahead(orders: Collection[Order]) -> None:
    """Digest orders that will not change until the book is digested, beside it: that will then take less time."""
    _digests(orders)


def decode(data: bytes) -> OrderBook:
    """The book that `encode` gave these bytes for. Raises StateUnreadable."""
    try:
        state = _decode(data)
    except msgspec.MsgspecError as error:
        raise StateUnreadable(str(error)) from error
    if state.spec.problems():
        raise StateUnreadable("; ".join(state.spec.problems()))
    book = OrderBook(state.spec, state.phase)
    book.sequence, book.time_us, book.epoch_start_us = state.sequence, state.time_us, state.epoch_start_us
    book.trades, book.fund_number, book.defund_number = state.trades, state.fund_number, state.defund_number
    book.halt_until_us, book.reopening_micro = state.halt_until_us, state.reopening_micro
    book.fees_micro, book.grid_micro = state.fees_micro, dict(state.grid_micro)
    reference = book.reference
    reference.last_price_micro, reference.price_micro = state.last_price_micro, state.reference_price_micro
    reference.minutes.extend(state.minutes)
    reference.value_micro = sum(value for _, value, _ in state.minutes)
    reference.volume_wh = sum(volume for _, _, volume in state.minutes)
    book.set_lanes_used({(zone_from, zone_to): used_wh for zone_from, zone_to, used_wh in state.lanes_used})
    for kept in state.accounts:
        book.accounts[kept.participant_id] = _account(kept, book)
    try:
        _restore_orders(book, state)
    except (KeyError, AssertionError, msgspec.MsgspecError) as error:
        raise StateUnreadable(f"orders and accounts do not fit together: {error!r}") from error
    book.restore()
    return book


def state_hash(data: bytes) -> bytes:
    """SHA-256 of encoded state: 32 bytes."""
    return hashlib.sha256(data).digest()


def _restore_orders(book: OrderBook, state: BookState) -> None:
    for kept in state.orders:
        order = _order(kept, book)
        book.orders[order.order_id] = order
        order.account.orders[order.order_id] = order
    book.stops.triggered.extend(state.triggered)
    for order in sorted(book.orders.values(), key=lambda order: order.priority):
        if order.is_waiting:
            book.stops.add(order)
        elif order.order_id not in book.stops.triggered:
            order.home.add(order)
    for kept in state.closed:
        order = _order(kept, book)
        book.closed[order.order_id] = order
        book.closed_in_order.append(order.order_id)
        book.undigested.append(order)
    for order_id in state.blocked:
        book.blocked[order_id] = book.orders[order_id]
    if state.call is not None:
        book.call = _call(state.call, book)


def _call_state(call: Call, *, with_result: bool = True) -> CallState:
    """What was worked out ahead of the first trades is left out: it follows from the orders."""
    return CallState(
        call.start_us,
        call.rules,
        call.zones,
        sorted(call.orders),
        list(call.deferred.items()),
        call.outcome.published if with_result and call.outcome is not None else None,
        call.done,
    )


def _call(kept: CallState, book: OrderBook) -> Call:
    call = Call(kept.start_us, kept.rules, kept.zones, {order_id: book.orders[order_id] for order_id in kept.orders})
    call.deferred, call.done = dict(kept.deferred), kept.done
    if kept.result is not None:
        call.outcome = outcome_of(kept.result, kept.start_us)
    return call


def _book_state(book: OrderBook, orders: list[Raw], closed: list[Raw], call: CallState | None) -> BookState:
    return BookState(
        spec=book.spec,
        phase=book.phase,
        sequence=book.sequence,
        time_us=book.time_us,
        epoch_start_us=book.epoch_start_us,
        trades=book.trades,
        fund_number=book.fund_number,
        defund_number=book.defund_number,
        fees_micro=book.fees_micro,
        grid_micro=sorted(book.grid_micro.items()),
        last_price_micro=book.reference.last_price_micro,
        reference_price_micro=book.reference.price_micro,
        minutes=list(book.reference.minutes),
        lanes_used=sorted((*pair, used_wh) for pair, used_wh in book.lanes_used().items()),
        blocked=sorted(book.blocked),
        accounts=[_account_state(book.accounts[key]) for key in sorted(book.accounts)],
        orders=orders,  # ids grow, so insertion is their order
        closed=closed,
        triggered=list(book.stops.triggered),
        halt_until_us=book.halt_until_us,
        reopening_micro=book.reopening_micro,
        call=call,
    )


def _encoded(orders: Collection[Order]) -> list[Raw]:
    """Each order's state as bytes."""
    return [Raw(_encode(_order_state(order))) for order in orders]


def _digests(orders: Collection[Order]) -> list[int]:
    return [order.digest if order.digested_sequence == order.updated_sequence else _digest(order) for order in orders]


def _digest(order: Order) -> int:
    order.digest = int.from_bytes(state_hash(_encode(_order_state(order))), "big")
    order.digested_sequence = order.updated_sequence
    return order.digest


def _order_state(order: Order) -> OrderState:
    return OrderState(
        order.order_id,
        order.placed,
        order.price_micro,
        order.quantity_wh,
        order.remaining_wh,
        order.filled_wh,
        order.value_micro,
        order.fees.maker_bps,
        order.fees.taker_bps,
        order.fee_numerator,
        order.reserved_micro,
        order.priority,
        order.expires_us,
        order.created_us,
        order.updated_us,
        order.updated_sequence,
        int(order.end_reason),
        order.stop_micro,
        order.is_waiting,
        order.fees.auction_bps,
    )


def _order(encoded: Raw, book: OrderBook) -> Order:
    """One by one, so that a hundred thousand need the memory of their orders and no more."""
    kept = _decode_order(encoded)
    placed = kept.placed
    account = book.accounts.get(placed.participant_id)
    if account is None:  # only an ended order can belong to an account that holds nothing
        assert kept.end_reason, kept.order_id
        account = Account(placed.participant_id, book.fees)
    home = book.sides[placed.side, placed.zone]
    # Equal numbers are one object, as in a book that has grown: each would take 32 bytes.
    price = _same(kept.price_micro, placed.price_micro)
    order = Order(kept.order_id, placed, account, home, price, kept.created_us)
    order.quantity_wh = _same(kept.quantity_wh, placed.quantity_wh)
    order.remaining_wh = _same(kept.remaining_wh, order.quantity_wh)
    order.filled_wh = _same(kept.filled_wh, order.quantity_wh)
    order.value_micro, order.fee_numerator = kept.value_micro, kept.fee_numerator
    fees = account.fees
    rates = (kept.maker_fee_bps, kept.taker_fee_bps, kept.auction_fee_bps)
    if rates != (fees.maker_bps, fees.taker_bps, fees.auction_bps):
        order.fees = FeeRates(*rates)  # those that it came with
    order.reserved_micro, order.expires_us = kept.reserved_micro, kept.expires_us
    order.priority = _same(kept.priority, order.order_id)
    order.updated_us = _same(kept.updated_us, order.created_us)
    order.updated_sequence = _same(kept.updated_sequence, order.order_id)
    order.end_reason = kept.end_reason
    order.stop_micro, order.is_waiting = kept.stop_micro, kept.is_waiting
    if placed.client_order_id:
        account.client_ids[placed.client_order_id] = order
    return order


def _same(number: int, known: int) -> int:
    return known if number == known else number


def _account_state(account: Account) -> AccountState:
    return AccountState(
        account.participant_id,
        account.cash_free,
        account.cash_reserved,
        sorted(account.energy_free.items()),
        sorted(account.energy_reserved.items()),
        (account.fees.maker_bps, account.fees.taker_bps) if account.has_own_fees else None,
        account.dead_man_us,
        account.limits,
        account.is_blocked,
        account.net_wh,
    )


def _account(kept: AccountState, book: OrderBook) -> Account:
    account = Account(kept.participant_id, fees_of(book.spec, kept.own_fees) if kept.own_fees else book.fees)
    account.has_own_fees = kept.own_fees is not None
    account.cash_free, account.cash_reserved = kept.cash_free, kept.cash_reserved
    account.energy_free, account.energy_reserved = dict(kept.energy_free), dict(kept.energy_reserved)
    account.dead_man_us = kept.dead_man_us
    account.limits, account.is_blocked, account.net_wh = kept.limits, kept.is_blocked, kept.net_wh
    return account
