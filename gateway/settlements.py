"""Settlements and their proofs: what anybody may see of a settlement, and what its owner may see of a trade's."""

from typing import Final

from litestar import Controller, get
from litestar.params import FromPath
from msgspec import Struct

from engine.settlement.proofs import Proof
from engine.settlement.records import PartRecord, SettlementRecord
from engine.settlement.states import Status
from engine.settlement.trades import ID_BYTES
from engine.units import FOREVER_US
from gateway.decimals import format_energy, format_money
from gateway.errors import invalid, not_found, not_shown
from gateway.instants import format_instant
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wire import Energy, Instant, Money, parse_order_id

STATUS_NAMES: Final = {one: one.name.lower() for one in Status}


class SettlementPart(Struct, frozen=True):
    """One transaction. `transaction_signature`: base58; null before it was sent."""

    part: int
    status: str
    transaction_signature: str | None
    updated_at: Instant


class SettlementView(Struct, frozen=True):
    """`root`: of the Merkle tree over its trades, as the chain has it. `value`: what buyers paid, without fees."""

    settlement_id: str
    number: int
    root: str
    trades: int
    energy: Energy
    value: Money
    status: str
    parts: list[SettlementPart]
    created_at: Instant
    updated_at: Instant


class TradeSettlementView(Struct, frozen=True):
    """`transaction_signature`: of the settlement's last transaction. `proof`: of one's own side of the trade."""

    trade_id: str
    status: str
    settlement_id: str | None
    transaction_signature: str | None
    proof: Proof | None


class SettlementController(Controller):
    path = "/chain/settlements"
    tags = ["chain"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def settlements(
        self, request: GatewayRequest, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[SettlementView]:
        """Newest first."""
        before = parse_cursor(cursor, 1)
        rows = await request.gateway.settlements.newest(before[0] if before else FOREVER_US, limit + 1)
        following = cursor_of(rows[limit - 1].number) if len(rows) > limit else None
        return Page([_show(row) for row in rows[:limit]], following)

    @get("/{settlement_id:str}")
    async def settlement(self, request: GatewayRequest, settlement_id: FromPath[str]) -> SettlementView:
        """With the root against which `wattbook proof verify` checks a proof."""
        row = await request.gateway.settlements.by_id(_parse_id(settlement_id))
        if row is None:
            raise not_found("settlement")
        return _show(row)


class TradeSettlementController(Controller):
    path = "/trades/{trade_id:str}/settlement"
    tags = ["chain"]  # noqa: RUF012 - Litestar reads it so

    @get()
    async def settlement(self, request: GatewayRequest, trade_id: FromPath[str]) -> TradeSettlementView:
        """How far one's own trade is on the chain, and the proof that it is in its settlement."""
        gateway = request.gateway
        market_id, number = parse_order_id(trade_id, "trade_id")
        if market_id not in gateway.trading.specs():
            raise not_found("trade")
        complete = request.mark_lag(await gateway.barrier.wait([market_id]))
        found = await gateway.settlements.of_trade(market_id, number, request.caller.user_id)
        if found is None:
            raise not_shown("trade", complete)
        settlement = found.settlement
        return TradeSettlementView(
            trade_id=trade_id,
            status=STATUS_NAMES[found.status],
            settlement_id=settlement.settlement_id.hex() if settlement is not None else None,
            transaction_signature=(settlement.parts[-1].signature or None) if settlement is not None else None,
            proof=found.proof,
        )


def _parse_id(text: str) -> bytes:
    if len(text) != 2 * ID_BYTES or not all(one in "0123456789abcdef" for one in text):
        raise invalid("settlement_id", f"must be {2 * ID_BYTES} hexadecimal digits in lower case")
    return bytes.fromhex(text)


def _show(row: SettlementRecord) -> SettlementView:
    return SettlementView(
        settlement_id=row.settlement_id.hex(),
        number=row.number,
        root=row.root.hex(),
        trades=row.trades,
        energy=format_energy(row.energy_wh),
        value=format_money(row.value_micro),
        status=STATUS_NAMES[row.status],
        parts=[_show_part(part) for part in row.parts],
        created_at=format_instant(row.created_us),
        updated_at=format_instant(row.changed_us),
    )


def _show_part(part: PartRecord) -> SettlementPart:
    return SettlementPart(part.part, STATUS_NAMES[part.status], part.signature or None, format_instant(part.changed_us))
