"""Do the books and the chain say the same? A comparison of ledger, vaults, pools and supplies, to the last unit.

    vault of an account = its balance in the ledger - what the ledger has and the chain has not yet
    pools               = what settlements hold that are not done
    supply              = what was made and not destroyed - what the chain has not yet, of energy and of our currency
    vaults and pools    <= supply, of either token

Accounts are those of netting.py. Whoever is in a transaction whose outcome is not known is left for the next time.
Tokens that have been withdrawn are their owner's: he may burn them, or send them to a vault or pool as a gift. Both are
told, and stop nothing: else anybody could stop everybody's withdrawals with one unit.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from engine.units import EnergyWh, MoneyMicro, TimeUs

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

    energy_live_wh: generated less retired, in the ledger; energy_pending_wh: what of that the chain has not yet;
    currency_...: the same, None of a currency that others make. outside: what has been withdrawn and not been paid in
    again. under_way: accounts in transactions whose outcome is not known; supply_moves: one of them makes or destroys.
    """

    ledger: Mapping[str, Amounts]
    pending: Mapping[str, Amounts]
    energy_live_wh: EnergyWh
    energy_pending_wh: EnergyWh = 0
    currency_live_micro: MoneyMicro | None = None
    currency_pending_micro: MoneyMicro = 0
    outside: Amounts = NOTHING
    under_way: frozenset[str] = frozenset()
    supply_moves: bool = False

    @property
    def supply(self) -> tuple[int, int, int | None, int]:
        return (self.energy_live_wh, self.energy_pending_wh, self.currency_live_micro, self.currency_pending_micro)


class OnChain(Struct, frozen=True):
    """vaults: per account; an account without a vault has nothing. held: by settlements that are not done."""

    vaults: Mapping[str, Amounts]
    pools: Amounts
    held: Amounts
    supply: Amounts


class Difference(Struct, frozen=True):
    """what: an account, `pools`, `supply`, or `vaults and pools`. stops: withdrawals wait until it is gone."""

    what: str
    asset: str
    expected: int
    found: int
    stops: bool = True


class BooksDiffer(Exception):
    """Books and chain do not agree: where."""


class Compared(Struct, frozen=True):
    """What the last comparison found."""

    at_us: TimeUs
    differences: tuple[Difference, ...]

    @property
    def stops(self) -> bool:
        return any(one.stops for one in self.differences)


def steady(before: Books, after: Books) -> Books:
    """The books while the chain was read between the two: whatever moved meanwhile is under way."""
    accounts = {*before.ledger, *after.ledger, *before.pending, *after.pending}
    moved = {
        one
        for one in accounts
        if before.ledger.get(one) != after.ledger.get(one) or before.pending.get(one) != after.pending.get(one)
    }
    return replace(
        after,
        under_way=before.under_way | after.under_way | moved,
        supply_moves=before.supply_moves or after.supply_moves or before.supply != after.supply,
    )


def compare(books: Books, chain: OnChain) -> list[Difference]:
    """Every difference; none when all is well."""
    found: list[Difference] = []
    for account in sorted({*books.ledger, *books.pending, *chain.vaults} - books.under_way):
        expected = books.ledger.get(account, NOTHING) - books.pending.get(account, NOTHING)
        found += _differences(account, expected, chain.vaults.get(account, NOTHING))
    found += _differences("pools", chain.held, chain.pools)
    found = _forgiven(found, books.outside)
    if not books.supply_moves:
        found += _supply_differences(books, chain)
    inside = sum(chain.vaults.values(), chain.pools)
    for asset, tokens, supply in (
        (ENERGY, inside.energy_wh, chain.supply.energy_wh),
        (CURRENCY, inside.currency_micro, chain.supply.currency_micro),
    ):
        if tokens > supply:
            found.append(Difference("vaults and pools", asset, supply, tokens))
    return found


def _supply_differences(books: Books, chain: OnChain) -> Iterator[Difference]:
    """Nobody else can make tokens; who holds some outside can burn them."""
    energy_wh = books.energy_live_wh - books.energy_pending_wh
    if not energy_wh <= chain.supply.energy_wh <= energy_wh + books.outside.energy_wh:
        yield Difference("supply", ENERGY, energy_wh, chain.supply.energy_wh)
    if books.currency_live_micro is None:
        return
    currency_micro = books.currency_live_micro - books.currency_pending_micro
    if not currency_micro <= chain.supply.currency_micro <= currency_micro + books.outside.currency_micro:
        yield Difference("supply", CURRENCY, currency_micro, chain.supply.currency_micro)


def again(first: Sequence[Difference], second: Sequence[Difference]) -> list[Difference]:
    """Those of the second look that the first one saw as well: what was only on its way has arrived meanwhile."""
    seen = {(one.what, one.asset, one.found - one.expected) for one in first}
    return [one for one in second if (one.what, one.asset, one.found - one.expected) in seen]


def _forgiven(differences: Sequence[Difference], outside: Amounts) -> list[Difference]:
    """Where there is too much, as far as it can have come from outside."""
    there = {ENERGY: outside.energy_wh, CURRENCY: outside.currency_micro}
    gifts = {ENERGY: 0, CURRENCY: 0}
    for one in differences:
        gifts[one.asset] += max(0, one.found - one.expected)
    return [
        replace(one, stops=False) if one.found > one.expected and gifts[one.asset] <= there[one.asset] else one
        for one in differences
    ]


def _differences(what: str, expected: Amounts, found: Amounts) -> Iterator[Difference]:
    if expected.energy_wh != found.energy_wh:
        yield Difference(what, ENERGY, expected.energy_wh, found.energy_wh)
    if expected.currency_micro != found.currency_micro:
        yield Difference(what, CURRENCY, expected.currency_micro, found.currency_micro)
