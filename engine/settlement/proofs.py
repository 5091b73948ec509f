"""The proof that a trade is in a settlement: what its owner is given, and how anybody checks it without us."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from engine.settlement.merkle import Tree, root_of
from engine.settlement.trades import (
    SettledSide,
    SettledTrade,
    SideName,
    blind_of,
    settlement_id,
    side_hash,
    trade_leaf,
)

FORMAT: Final = "wattbook-proof-v1"
_U32: Final = Meta(ge=0, le=2**32 - 1)
_U63: Final = Meta(ge=0, le=2**63 - 1)
_I63: Final = Meta(ge=-(2**63), le=2**63 - 1)
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ProofWrong(Exception):
    """Says why the proof proves nothing."""


class Proof(Struct, frozen=True, forbid_unknown_fields=True):
    """Integers in Wh, micro-currency and microseconds; hashes in hex. `side` is whose the proof is.

    value_micro: what this side pays or receives without the fee. other_side: the hash of the other one.
    """

    format: Literal["wattbook-proof-v1"]
    settlement_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    settlement_number: Annotated[int, _U63]
    root: Hash
    count: Annotated[int, _U32]
    index: Annotated[int, _U32]
    path: Annotated[list[Hash], Meta(max_length=32)]
    market_id: Annotated[int, _U32]
    trade_number: Annotated[int, _U63]
    sequence: Annotated[int, _U63]
    time_us: Annotated[int, _U63]
    energy_wh: Annotated[int, _U63]
    side: SideName
    participant_id: Annotated[int, _U63]
    zone: Annotated[str, Meta(max_length=32, pattern="^[A-Za-z0-9_-]*$")]
    value_micro: Annotated[int, _I63]
    fee_micro: Annotated[int, _I63]
    blind: Hash
    other_side: Hash


def prove(trade: SettledTrade, side: SideName, number: int, salt: bytes, leaves: Sequence[bytes], index: int) -> Proof:
    """number, salt, leaves: of the settlement; index: the trade's place in it."""
    tree, own = Tree(leaves), trade.side(side)
    other: SideName = "seller" if side == "buyer" else "buyer"
    hidden = blind_of(salt, trade.market_id, trade.number, other)
    return Proof(
        format=FORMAT,
        settlement_id=settlement_id(number, len(leaves), tree.root).hex(),
        settlement_number=number,
        root=tree.root.hex(),
        count=len(leaves),
        index=index,
        path=[each.hex() for each in tree.path(index)],
        market_id=trade.market_id,
        trade_number=trade.number,
        sequence=trade.sequence,
        time_us=trade.time_us,
        energy_wh=trade.energy_wh,
        side=side,
        participant_id=own.participant_id,
        zone=own.zone,
        value_micro=own.value_micro,
        fee_micro=own.fee_micro,
        blind=blind_of(salt, trade.market_id, trade.number, side).hex(),
        other_side=side_hash(trade.side(other), hidden).hex(),
    )


def verify(proof: Proof, root: bytes) -> None:
    """Is the trade under this root, which somebody else vouches for, such as the chain? Raises ProofWrong."""
    if bytes.fromhex(proof.root) != root:
        raise ProofWrong(f"it is of another settlement: its root is {proof.root}")
    if settlement_id(proof.settlement_number, proof.count, root).hex() != proof.settlement_id:
        raise ProofWrong("settlement_id is not that of this number, count and root")
    if not proof.index < proof.count:
        raise ProofWrong(f"there is no trade {proof.index} among {proof.count}")
    found = root_of(leaf_of_proof(proof), proof.index, proof.count, [bytes.fromhex(each) for each in proof.path])
    if found is None:
        raise ProofWrong(f"a path of {len(proof.path)} hashes leads nowhere from place {proof.index} of {proof.count}")
    if found != root:
        raise ProofWrong("the trade as it is told here is not under this root")


def leaf_of_proof(proof: Proof) -> bytes:
    own = SettledSide(proof.participant_id, proof.zone, proof.value_micro, proof.fee_micro)
    hashes = [side_hash(own, bytes.fromhex(proof.blind)), bytes.fromhex(proof.other_side)]
    buyer, seller = hashes if proof.side == "buyer" else reversed(hashes)
    return trade_leaf(
        proof.market_id, proof.trade_number, proof.sequence, proof.time_us, proof.energy_wh, buyer, seller
    )
