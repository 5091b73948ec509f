"""What a transaction takes, counted while effects join it: exact without lookup tables, never too little with them.

Compiling it anew for each effect that may still fit cost more than signing it.
"""

from typing import Final

from msgspec import Struct
from solders.instruction import Instruction
from solders.pubkey import Pubkey

from chain.client.judgements import Plan
from engine.submission import TOGETHER_MAX, Effect

ADDRESS_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
FIXED_BYTES: Final = 1 + 3 + 32 + 1  # version, header, blockhash, and that there are no lookup tables
SHORT_MAX: Final = 127  # what a length of one byte can say


class Load(Struct, frozen=True):
    """Of a group of effects: how many, and how many at most; compute units; accounts that it locks, those that sign
    and those that it makes; its instructions, and their bytes.
    """

    together: int
    together_max: int
    units: int
    keys: frozenset[Pubkey]
    signing: frozenset[Pubkey]
    made: frozenset[Pubkey]
    calls: int
    call_bytes: int

    @property
    def bytes(self) -> int:
        """Of the signed transaction, without tables."""
        keys, signatures = len(self.keys), len(self.signing)
        lengths = _length(keys) + _length(signatures) + _length(self.calls)
        return FIXED_BYTES + lengths + keys * ADDRESS_BYTES + signatures * SIGNATURE_BYTES + self.call_bytes


def begun_by(payer: Pubkey) -> Load:
    """With no effect yet."""
    who = frozenset((payer,))
    return Load(0, TOGETHER_MAX, 0, who, who, frozenset(), 0, 0)


def joined(load: Load, effect: Effect, plan: Plan) -> Load:
    """With one more effect, and what of its setup is not made by the others."""
    calls = [each for address, each in plan.setup.items() if address not in load.made]
    calls += plan.instructions
    keys, signing, call_bytes = set(load.keys), set(load.signing), load.call_bytes
    for call in calls:
        metas = call.accounts
        keys.add(call.program_id)
        keys.update([meta.pubkey for meta in metas])
        signing.update([meta.pubkey for meta in metas if meta.is_signer])
        call_bytes += _bytes_of(call, len(metas))
    return Load(
        load.together + 1,
        min(load.together_max, effect.submission.together_max),
        load.units + plan.units,
        frozenset(keys),
        frozenset(signing),
        load.made.union(plan.setup),
        load.calls + len(calls),
        call_bytes,
    )


def _bytes_of(call: Instruction, accounts: int) -> int:
    length = len(call.data)
    return 1 + _length(accounts) + accounts + _length(length) + length


def _length(count: int) -> int:
    return 1 if count <= SHORT_MAX else 2
