"""Valid rows of journals and projections; a test names only what it is about."""

from engine.journal import JournalRow
from engine.market import Phase
from engine.messages import OrderKind, Side, TimeInForce
from engine.projection import LedgerEntry, LedgerTransfer, ProjectionBatch, ReservedAmount, TradeRow
from engine.units import FOREVER_US
from engine.views import OrderStatus, OrderView

THB = "THB"
MARKET_ID = 1


def journal_row(first: int, last: int | None = None, market_id: int = MARKET_ID, entries: bytes = b"x") -> JournalRow:
    return JournalRow(
        market_id=market_id,
        first_sequence=first,
        last_sequence=first if last is None else last,
        engine_version=1,
        entries=entries,
        events_hash=bytes(32),
        state_hash=b"",
        previous_hash=bytes(32),
        hash=first.to_bytes(32, "big"),
    )


def order_view(order_id: int, participant_id: int = 1001, **changes: object) -> OrderView:
    values: dict[str, object] = {
        "order_id": order_id,
        "participant_id": participant_id,
        "client_order_id": f"c-{order_id}",
        "side": Side.BUY,
        "kind": OrderKind.LIMIT,
        "price_micro": 3_500_000,
        "quantity_wh": 1_000,
        "filled_wh": 0,
        "remaining_wh": 1_000,
        "value_micro": 0,
        "status": OrderStatus.OPEN,
        "end_reason": 0,
        "time_in_force": TimeInForce.GTC,
        "expires_us": FOREVER_US,
        "post_only": False,
        "zone": "Z1",
        "created_us": order_id * 1_000,
        "updated_us": order_id * 1_000,
        "sequence": order_id,
        **changes,
    }
    return OrderView(**values)  # type: ignore[arg-type]


def trade_row(number: int, buyer_id: int = 1001, seller_id: int = 1002, **changes: object) -> TradeRow:
    values: dict[str, object] = {
        "number": number,
        "sequence": number,
        "time_us": number * 1_000,
        "epoch_start_us": 0,
        "maker_order_id": 2 * number - 1,
        "taker_order_id": 2 * number,
        "buyer_id": buyer_id,
        "seller_id": seller_id,
        "taker_side": Side.BUY,
        "energy_wh": 1_000,
        "price_micro": 3_000_000,
        "buyer_price_micro": 3_530_000,
        "seller_price_micro": 3_000_000,
        "buyer_value_micro": 3_530_000,
        "seller_value_micro": 3_000_000,
        "buyer_fee_micro": 3_530,
        "seller_fee_micro": 0,
        "buyer_zone": "Z1",
        "seller_zone": "Z1",
        "by_auction": False,
        **changes,
    }
    return TradeRow(**values)  # type: ignore[arg-type]


def trade_transfer(trade: TradeRow, market_id: int = MARKET_ID) -> LedgerTransfer:
    """What the trade moves: money from the buyer to seller, fees and grid; energy from the seller to the buyer."""
    fees = trade.buyer_fee_micro + trade.seller_fee_micro
    grid = trade.buyer_value_micro - trade.seller_value_micro
    sold, bought = f"energy:{trade.seller_zone}", f"energy:{trade.buyer_zone}"
    return LedgerTransfer(
        kind="trade",
        reference=f"trade:{market_id}:{trade.number}",
        time_us=trade.time_us,
        entries=(
            LedgerEntry("market", trade.buyer_id, THB, -trade.buyer_value_micro - trade.buyer_fee_micro),
            LedgerEntry("market", trade.seller_id, THB, trade.seller_value_micro - trade.seller_fee_micro),
            LedgerEntry("fees", 0, THB, fees),
            LedgerEntry(f"grid:{trade.seller_zone}", 0, THB, grid),
            LedgerEntry("market", trade.seller_id, sold, -trade.energy_wh),
            LedgerEntry(f"grid:{trade.seller_zone}", 0, sold, trade.energy_wh),
            LedgerEntry(f"grid:{trade.buyer_zone}", 0, bought, -trade.energy_wh),
            LedgerEntry("market", trade.buyer_id, bought, trade.energy_wh),
        ),
    )


def batch(sequence_from: int, sequence_to: int, market_id: int = MARKET_ID, **parts: object) -> ProjectionBatch:
    values: dict[str, object] = {
        "market_id": market_id,
        "sequence_from": sequence_from,
        "sequence_to": sequence_to,
        "time_us": sequence_to * 1_000,
        "phase": Phase.OPEN,
        "reference_price_micro": 0,
        "last_price_micro": 0,
        "epoch_start_us": 0,
        "accepted": [],
        "orders": [],
        "trades": [],
        "positions": [],
        "candles": [],
        "transfers": [],
        "reserved": [],
        "epochs": [],
        **parts,
    }
    return ProjectionBatch(**values)  # type: ignore[arg-type]


def reserved(participant_id: int, amount: int, asset: str = THB) -> ReservedAmount:
    return ReservedAmount(participant_id, asset, amount)
