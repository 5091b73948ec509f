"""Trades for settlements, and a twin of the settlement's arithmetic that is too simple to be wrong."""

import hashlib

from engine.settlement.netting import Delta
from engine.settlement.trades import SettledSide, SettledTrade

SALT = bytes(range(32))


def trade(
    number: int, buyer: int = 1, seller: int = 2, *, zones: tuple[str, str] = ("A", "A"), **changes: int
) -> SettledTrade:
    """zones: of buyer and seller. value_micro is the seller's; charges and fees come on top or off."""
    one = {"energy_wh": 1_000, "value_micro": 3_000_000, "charges_micro": 0, "buyer_fee": 0, "seller_fee": 0}
    one |= {"market_id": 1, "time_us": number} | changes
    return SettledTrade(
        market_id=one["market_id"],
        number=number,
        sequence=2 * number,
        time_us=one["time_us"],
        energy_wh=one["energy_wh"],
        buyer=SettledSide(buyer, zones[0], one["value_micro"] + one["charges_micro"], one["buyer_fee"]),
        seller=SettledSide(seller, zones[1], one["value_micro"], one["seller_fee"]),
    )


def naive_root(leaves: list[bytes]) -> bytes:
    """As RFC 6962 defines it: split at the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:half]) + naive_root(leaves[half:])).digest()


def naive_deltas(trades: list[SettledTrade]) -> list[Delta]:
    """Everybody asks every trade what it means for him."""
    people = {one.buyer.participant_id for one in trades} | {one.seller.participant_id for one in trades}
    found = []
    for person in people:
        bought = [one for one in trades if one.buyer.participant_id == person]
        sold = [one for one in trades if one.seller.participant_id == person]
        energy = sum(one.energy_wh for one in bought) - sum(one.energy_wh for one in sold)
        paid = sum(one.buyer.value_micro + one.buyer.fee_micro for one in bought)
        received = sum(one.seller.value_micro - one.seller.fee_micro for one in sold)
        found.append(Delta(f"user:{person}", energy, received - paid))
    found.append(Delta("fees", 0, sum(one.buyer.fee_micro + one.seller.fee_micro for one in trades)))
    found.append(Delta("grid", 0, sum(one.buyer.value_micro - one.seller.value_micro for one in trades)))
    return sorted((one for one in found if one.energy_wh or one.currency_micro), key=lambda one: one.account)
