"""What a participant owns and did: balances, ledger, deposits, fills, positions. One's own only."""

from typing import Annotated, Final, Literal
from uuid import uuid4

from litestar import Controller, get, post
from litestar.params import FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from engine.analytics.positions import average_price_micro, realised_micro
from engine.records import DepositRecord, LedgerLine, PositionRecord
from engine.submission import PendingDeposit
from engine.units import FOREVER_US
from gateway.decimals import format_energy, format_money, format_price, parse_energy_amount, parse_money
from gateway.errors import GatewayCode, Problem, invalid
from gateway.instants import INSTANT_US_MAX, format_instant, parse_instant
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Balance, Instant, OwnFill, Price, show_amount, show_balance, show_own_fill

ENERGY = "energy:"
_PENDING_MAX: Final = 100
From = Annotated[str | None, QueryParameter(name="from", description="RFC 3339; counts")]
To = Annotated[str | None, QueryParameter(name="to", description="RFC 3339; does not count")]


class DepositRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`asset`: the currency code, or `energy:<zone>` with the amount in kWh."""

    asset: str
    amount: str


class Deposit(Struct, frozen=True):
    """`pending`: seen on the chain, and counted when no fork can undo it; its id is another then."""

    deposit_id: str
    asset: str
    amount: str
    status: Literal["pending", "available"]
    created_at: Instant


class Line(Struct, frozen=True):
    """One entry on one of the participant's accounts: `main`, or `market` with its symbol."""

    line_id: str
    transfer_id: str
    kind: str
    reference: str
    account: str
    market: str | None
    asset: str
    amount: str
    created_at: Instant


class Position(Struct, frozen=True):
    """What the participant bought and sold in one epoch of one market. `realised`: by what was bought and sold again,
    at average prices, before fees; `charges`: what of the money paid was the grid's."""

    market: str
    epoch: Instant
    bought: str
    sold: str
    net: str
    paid: str
    received: str
    fees: str
    trades: int
    average_buy: Price | None
    average_sell: Price | None
    realised: str
    charges: str


class TrialBalance(Struct, frozen=True):
    """Of one asset: every kind of account, and the sum of them, which is zero."""

    asset: str
    accounts: dict[str, str]
    sum: str


class AccountController(Controller):
    path = "/"
    tags = ["accounts"]  # noqa: RUF012 - Litestar reads it so

    @get("/balances")
    async def balances(self, request: GatewayRequest) -> Page[Balance]:
        """What one has of each asset; available + free_in_markets + reserved = total."""
        gateway = request.gateway
        request.mark_lag(await gateway.barrier.wait(gateway.trading.specs()))
        rows = await gateway.ledger.balances(request.caller.user_id)
        return Page([show_balance(row, gateway.settings.currency) for row in rows])

    @get("/ledger")
    async def ledger(self, request: GatewayRequest, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None) -> Page[Line]:
        """Every entry on one's accounts, newest first."""
        gateway = request.gateway
        specs = gateway.trading.specs()
        request.mark_lag(await gateway.barrier.wait(specs))
        before = parse_cursor(cursor, 1)
        rows = await gateway.ledger.lines(request.caller.user_id, before[0] if before else FOREVER_US, limit)
        symbols = {market_id: spec.symbol for market_id, spec in specs.items()}
        items = [_show_line(row, symbols, gateway.settings.currency) for row in rows]
        return Page(items, cursor_of(rows[-1].line_id) if len(rows) == limit else None)

    @get("/fills")
    async def fills(
        self,
        request: GatewayRequest,
        market: FromQuery[str | None] = None,
        order_id: FromQuery[str | None] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[OwnFill]:
        """One's own part of each trade, newest first."""
        gateway = request.gateway
        specs = gateway.trading.specs()
        market_id = gateway.trading.spec(market).market_id if market is not None else None
        request.mark_lag(await gateway.barrier.wait([market_id] if market_id is not None else specs))
        if order_id is not None:
            spec, number = gateway.trading.locate(order_id)
            own = await gateway.history.fills_of_orders(request.caller.user_id, [(spec.market_id, number)], limit)
            return Page([show_own_fill(spec, row.view) for row in reversed(own)], None)
        before = parse_cursor(cursor, 3)
        rows = await gateway.history.fills(
            request.caller.user_id,
            market_id,
            (before[0], before[1], before[2]) if before is not None else None,
            limit,
        )
        items = [show_own_fill(specs[row.market_id], row.view) for row in rows if row.market_id in specs]
        last = rows[-1] if len(rows) == limit else None
        return Page(items, cursor_of(last.view.at_us, last.market_id, last.view.trade_number) if last else None)

    @get("/positions")
    async def positions(
        self,
        request: GatewayRequest,
        market: FromQuery[str | None] = None,
        from_: From = None,
        to: To = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Position]:
        """Energy and money by epoch and market, newest epoch first."""
        gateway = request.gateway
        specs = gateway.trading.specs()
        market_id = gateway.trading.spec(market).market_id if market is not None else None
        request.mark_lag(await gateway.barrier.wait([market_id] if market_id is not None else specs))
        before = parse_cursor(cursor, 2)
        rows = await gateway.history.positions(
            request.caller.user_id,
            market_id,
            parse_instant(from_, "from") if from_ is not None else 0,
            parse_instant(to, "to") if to is not None else INSTANT_US_MAX,
            (before[0], before[1]) if before is not None else None,
            limit,
        )
        items = [_show_position(row, specs[row.market_id].symbol) for row in rows if row.market_id in specs]
        last = rows[-1] if len(rows) == limit else None
        return Page(items, cursor_of(last.epoch_start_us, last.market_id) if last else None)

    @post("/deposits")
    async def deposit(self, request: GatewayRequest, data: JSONBody[DepositRequest]) -> Deposit:
        """The development faucet: available at once. With an `Idempotency-Key` a repeat gives the first deposit."""
        gateway = request.gateway
        if not gateway.settings.faucet_enabled:
            raise Problem(GatewayCode.FORBIDDEN, "the faucet is off: deposits come from the chain")
        user_id, key = request.caller.user_id, request.idempotency_key
        if data.asset == gateway.settings.currency:
            amount = parse_money(data.amount, "amount")
        elif data.asset in {f"{ENERGY}{zone.zone_id}" for zone in await gateway.catalogue.zones()}:
            amount = parse_energy_amount(data.amount, "amount")
        else:
            raise invalid("asset", f"must be {gateway.settings.currency} or {ENERGY}<zone>")
        reference = f"deposit:{user_id}:{key or uuid4().hex}"
        now_us = gateway.clock()
        row = await gateway.ledger.deposit(user_id, data.asset, amount, reference, now_us, request.origin)
        return _show_deposit(row, gateway.settings.currency)

    @get("/deposits")
    async def deposits(
        self, request: GatewayRequest, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[Deposit]:
        """One's own deposits, newest first; before them, on the first page, what is on its way on the chain."""
        gateway, user_id, currency = request.gateway, request.caller.user_id, request.gateway.settings.currency
        before = parse_cursor(cursor, 1)
        rows = await gateway.ledger.deposits(user_id, before[0] if before else FOREVER_US, limit)
        items = [_show_deposit(row, currency) for row in rows]
        if before is None and (pending := await gateway.chain.pending_deposits(user_id, _PENDING_MAX)):
            user = await gateway.people.by_id(user_id)
            zone = user.zone if user is not None else gateway.settings.default_zone
            items = [*(_show_pending(one, zone, currency) for one in pending), *items]
        return Page(items, cursor_of(rows[-1].deposit_id) if len(rows) == limit else None)

    @get("/admin/ledger/trial-balance")
    async def trial_balance(self, request: GatewayRequest) -> Page[TrialBalance]:
        """Every kind of account of every asset; each sum is zero, always."""
        currency = request.gateway.settings.currency
        assets: dict[str, dict[str, int]] = {}
        for line in await request.gateway.ledger.trial_balance():
            assets.setdefault(line.asset, {})[line.kind] = line.amount
        return Page(
            [
                TrialBalance(
                    asset=asset,
                    accounts={kind: show_amount(asset, amount, currency) for kind, amount in kinds.items()},
                    sum=show_amount(asset, sum(kinds.values()), currency),
                )
                for asset, kinds in sorted(assets.items())
            ]
        )


def _show_deposit(row: DepositRecord, currency: str) -> Deposit:
    return Deposit(
        deposit_id=str(row.deposit_id),
        asset=row.asset,
        amount=show_amount(row.asset, row.amount, currency),
        status="available",
        created_at=format_instant(row.created_us),
    )


def _show_pending(one: PendingDeposit, zone: str, currency: str) -> Deposit:
    asset = f"{ENERGY}{zone}" if one.is_energy else currency
    return Deposit(
        deposit_id=f"{one.signature}:{one.instruction}:{one.index}",
        asset=asset,
        amount=show_amount(asset, one.amount, currency),
        status="pending",
        created_at=format_instant(one.seen_us),
    )


def _show_line(row: LedgerLine, symbols: dict[int, str], currency: str) -> Line:
    return Line(
        line_id=str(row.line_id),
        transfer_id=str(row.transfer_id),
        kind=row.kind,
        reference=row.reference,
        account=row.account,
        market=symbols.get(row.market_id),
        asset=row.asset,
        amount=show_amount(row.asset, row.amount, currency),
        created_at=format_instant(row.created_us),
    )


def _show_position(row: PositionRecord, symbol: str) -> Position:
    return Position(
        market=symbol,
        epoch=format_instant(row.epoch_start_us),
        bought=format_energy(row.bought_wh),
        sold=format_energy(row.sold_wh),
        net=format_energy(row.bought_wh - row.sold_wh),
        paid=format_money(row.paid_micro),
        received=format_money(row.received_micro),
        fees=format_money(row.fees_micro),
        trades=row.trades,
        average_buy=_price(average_price_micro(row.paid_micro, row.bought_wh)),
        average_sell=_price(average_price_micro(row.received_micro, row.sold_wh)),
        realised=format_money(realised_micro(row.bought_wh, row.sold_wh, row.paid_micro, row.received_micro)),
        charges=format_money(row.charges_micro),
    )


def _price(price_micro: int | None) -> str | None:
    return None if price_micro is None else format_price(price_micro)
