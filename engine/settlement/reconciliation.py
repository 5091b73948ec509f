"""Do the books and the chain say the same? A comparison of ledger, vaults, pools and supplies, to the last unit.

    vault of an account = its balance in the ledger - what the ledger has and the chain has not yet
    pools               = what settlements hold that are not done
    energy supply       = generated - retired - what the chain has not yet
    vaults and pools    <= supply, of either token

Accounts are those of netting.py. Whoever is in a transaction whose outcome is not known is left for the next time.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from msgspec import Struct

from engine.units import EnergyWh, MoneyMicro

ENERGY: Final = "energy"
CURRENCY: Final = "currency"


class Amounts(Struct, frozen=True, gc=False):
    energy_wh: EnergyWh = 0
    currency_micro: MoneyMicro = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.energy_wh + other.energy_wh, self.currency_micro + other.currency_micro)

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.energy_wh - other.energy_wh, self.currency_micro - other.currency_micro)


NOTHING: Final = Amounts()


class Books(Struct, frozen=True):
    """ledger: per account, with what is in markets. pending: per account, in the ledger and not yet on the chain.

    energy_live_wh: generated less retired, in the ledger; energy_pending_wh: what of that the chain has not yet.
    under_way: accounts in transactions whose outcome is not known.
    """

    ledger: Mapping[str, Amounts]
    pending: Mapping[str, Amounts]
    energy_live_wh: EnergyWh
    energy_pending_wh: EnergyWh = 0
    under_way: Collection[str] = ()


class OnChain(Struct, frozen=True):
    """vaults: per account; an account without a vault has nothing. held: by settlements that are not done."""

    vaults: Mapping[str, Amounts]
    pools: Amounts
    held: Amounts
    supply: Amounts


class Difference(Struct, frozen=True):
    """what: an account, `pools` or `supply`."""

    what: str
    asset: str
    expected: int
    found: int


def compare(books: Books, chain: OnChain) -> list[Difference]:
    """Every difference; none when all is well."""
    found: list[Difference] = []
    for account in sorted({*books.ledger, *books.pending, *chain.vaults} - set(books.under_way)):
        expected = books.ledger.get(account, NOTHING) - books.pending.get(account, NOTHING)
        found += _differences(account, expected, chain.vaults.get(account, NOTHING))
    found += _differences("pools", chain.held, chain.pools)
    live_wh = books.energy_live_wh - books.energy_pending_wh
    if not books.under_way and live_wh != chain.supply.energy_wh:
        found.append(Difference("supply", ENERGY, live_wh, chain.supply.energy_wh))
    inside = sum(chain.vaults.values(), chain.pools)
    for asset, tokens, supply in (
        (ENERGY, inside.energy_wh, chain.supply.energy_wh),
        (CURRENCY, inside.currency_micro, chain.supply.currency_micro),
    ):
        if tokens > supply:
            found.append(Difference("vaults and pools", asset, supply, tokens))
    return found


def _differences(what: str, expected: Amounts, found: Amounts) -> Iterator[Difference]:
    if expected.energy_wh != found.energy_wh:
        yield Difference(what, ENERGY, expected.energy_wh, found.energy_wh)
    if expected.currency_micro != found.currency_micro:
        yield Difference(what, CURRENCY, expected.currency_micro, found.currency_micro)
