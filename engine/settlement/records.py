"""What is kept of settlements, as persistence reads it and the gateway shows it."""

from msgspec import Struct

from engine.settlement.proofs import Proof
from engine.settlement.states import Status
from engine.units import EnergyWh, MoneyMicro, TimeUs


class PartRecord(Struct, frozen=True):
    """signature: of the transaction that was sent last for it; empty before."""

    part: int
    status: Status
    signature: str
    changed_us: TimeUs


class SettlementRecord(Struct, frozen=True):
    """value_micro: what buyers paid, without fees. parts in their order."""

    number: int
    settlement_id: bytes
    root: bytes
    trades: int
    energy_wh: EnergyWh
    value_micro: MoneyMicro
    status: Status
    created_us: TimeUs
    changed_us: TimeUs
    parts: tuple[PartRecord, ...] = ()


class TradeSettlement(Struct, frozen=True):
    """How far a trade is; settlement and proof: None until one has taken it."""

    status: Status
    settlement: SettlementRecord | None = None
    proof: Proof | None = None
