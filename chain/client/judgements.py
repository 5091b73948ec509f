"""What may be said of an effect after a look at the chain, and whose accounts are where."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from msgspec import Struct
from solders.account import Account
from solders.instruction import Instruction
from solders.pubkey import Pubkey

from chain.client.wallets import Role
from engine.submission import Holdings, NotNow, Refused

UNITS_OF_CALL: Final = 60_000  # more than a call of ours takes that has no number of its own

Accounts: TypeAlias = Mapping[Pubkey, Account | None]


class Done(Struct, frozen=True):
    """It is there already, as it should be."""


class Plan(Struct, frozen=True):
    """setup: what others may need as well, once in a transaction, by the account that it makes.

    setup_fails_twice: so whoever needs it, in another transaction, waits until the account is there.
    lasting: accounts that later transactions will name, too, and that a lookup table should hold.
    """

    roles: tuple[Role, ...]  # who signs; the first pays
    units: int
    instructions: tuple[Instruction, ...]
    setup: Mapping[Pubkey, Instruction] = {}
    setup_fails_twice: bool = False
    lasting: tuple[Pubkey, ...] = ()


Judgement: TypeAlias = Done | Plan | NotNow | Refused


class Participant(Struct, frozen=True):
    """Addresses of one participant, all of which follow from the first."""

    address: Pubkey
    user: Pubkey
    vault: Pubkey
    energy: Pubkey
    currency: Pubkey

    @property
    def holdings(self) -> Holdings:
        return Holdings(*map(str, (self.address, self.vault, self.energy, self.currency)))
