"""Which trades a settlement takes, what they come to for everybody, and the parts in which the chain is told.

An account is `user:<id>`, `fees` or `grid`: each has one vault on the chain, which holds energy of all zones together
because the chain knows one energy token. Why parts, and why payers first: docs/decisions/0026.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from engine.messages import CURRENCY, ParticipantId
from engine.settlement.merkle import Tree
from engine.settlement.trades import SALT_BYTES, SettledTrade, leaves_of, settlement_id
from engine.units import EnergyWh, MoneyMicro, TimeUs

PARTS_MAX: Final = 255  # the program counts them with 8 bits
USER: Final = "user:"
FEES: Final = "fees"
GRID: Final = "grid"
_DELTA_MAX: Final = 2**63 - 1


class Rule(Struct, frozen=True):
    """When trades are settled: those of an interval when it has ended, and at once when there are trades_max of them.

    part_accounts: how many accounts fit a transaction.
    """

    every_us: int
    trades_max: int
    part_accounts: int

    @property
    def accounts_max(self) -> int:
        """Of a settlement, so that its parts can be counted whatever they are: each account pays in and is paid."""
        return PARTS_MAX // 2 * self.part_accounts


class Delta(Struct, frozen=True, gc=False):
    """What an account's vault gains, or loses below zero."""

    account: str
    energy_wh: EnergyWh = 0
    currency_micro: MoneyMicro = 0


class Part(Struct, frozen=True):
    """One transaction's worth. after: the parts before this number must be done first."""

    after: int
    deltas: tuple[Delta, ...]


class Settlement(Struct, frozen=True):
    """leaves: a hash per trade, in the order of the trades."""

    number: int
    settlement_id: bytes
    root: bytes
    leaves: list[bytes]
    parts: list[Part]
    energy_wh: EnergyWh
    value_micro: MoneyMicro


def user(participant_id: ParticipantId) -> str:
    return f"{USER}{participant_id}"


def is_due(waiting: int, oldest_us: TimeUs, now_us: TimeUs, rule: Rule) -> bool:
    """Would `choose` take any of so many trades?"""
    return waiting >= rule.trades_max or (waiting > 0 and oldest_us < _ended_us(now_us, rule))


def choose(waiting: Sequence[SettledTrade], now_us: TimeUs, rule: Rule) -> list[SettledTrade]:
    """The trades of the next settlement, none when none is due. waiting: unsettled ones in the order of their time."""
    ended_us = _ended_us(now_us, rule)
    enough = len(waiting) >= rule.trades_max
    chosen: list[SettledTrade] = []
    accounts = {FEES, GRID}
    for trade in waiting[: rule.trades_max]:
        accounts |= {user(trade.buyer.participant_id), user(trade.seller.participant_id)}
        if len(accounts) > rule.accounts_max or not (enough or trade.time_us < ended_us):
            break
        chosen.append(trade)
    return chosen


def accounts_of(trades: Iterable[SettledTrade]) -> int:
    """How many accounts their settlement changes at most."""
    return 2 + len({side.participant_id for trade in trades for side in (trade.buyer, trade.seller)})


def net(trades: Iterable[SettledTrade]) -> dict[tuple[str, str], int]:
    """What each (account, asset) gains, in micro-currency or Wh; of each asset the sum is zero.

    Assets as inside the engine: CURRENCY, or the zone of the energy. The grid is here per zone: `grid:<zone>`.
    """
    gains: defaultdict[tuple[str, str], int] = defaultdict(int)
    for trade in trades:
        buyer, seller, energy_wh = trade.buyer, trade.seller, trade.energy_wh
        gains[user(buyer.participant_id), CURRENCY] -= buyer.value_micro + buyer.fee_micro
        gains[user(seller.participant_id), CURRENCY] += seller.value_micro - seller.fee_micro
        gains[f"{GRID}:{buyer.zone}", CURRENCY] += buyer.value_micro - seller.value_micro
        gains[FEES, CURRENCY] += buyer.fee_micro + seller.fee_micro
        gains[user(seller.participant_id), seller.zone] -= energy_wh
        gains[user(buyer.participant_id), buyer.zone] += energy_wh
        if buyer.zone != seller.zone:
            gains[f"{GRID}:{seller.zone}", seller.zone] += energy_wh
            gains[f"{GRID}:{buyer.zone}", buyer.zone] -= energy_wh
    return dict(gains)


def deltas(gains: Mapping[tuple[str, str], int]) -> list[Delta]:
    """The same for the chain: zones together, those that gain and lose nothing left out, in the order of accounts."""
    energy: defaultdict[str, int] = defaultdict(int)
    currency: defaultdict[str, int] = defaultdict(int)
    for (account, asset), amount in gains.items():
        holder = GRID if account.startswith(GRID) else account
        (currency if asset == CURRENCY else energy)[holder] += amount
    found = [Delta(account, energy[account], currency[account]) for account in sorted({*energy, *currency})]
    return [one for one in found if one.energy_wh or one.currency_micro]


def split(changes: Sequence[Delta], part_accounts: int) -> list[Part]:
    """The parts in which the chain is told: one if it holds all, else those that pay in, and after them the others."""
    assert all(abs(n) <= _DELTA_MAX for one in changes for n in (one.energy_wh, one.currency_micro)), "64 bits"
    if len(changes) <= part_accounts:
        return [Part(0, tuple(changes) or (Delta(FEES),))]  # nothing moves, but the root must be told
    pay = [Delta(one.account, min(one.energy_wh, 0), min(one.currency_micro, 0)) for one in changes]
    gain = [Delta(one.account, max(one.energy_wh, 0), max(one.currency_micro, 0)) for one in changes]
    first = [Part(0, part) for part in _chunks(pay, part_accounts)]
    parts = first + [Part(len(first), part) for part in _chunks(gain, part_accounts)]
    assert len(parts) <= PARTS_MAX, "who chooses the trades keeps to Rule.accounts_max"
    return parts


def settle(
    trades: Sequence[SettledTrade],
    number: int,
    salt: bytes,
    part_accounts: int,
    rebates: Sequence[tuple[ParticipantId, MoneyMicro]] = (),
) -> Settlement:
    """Everything about the settlement of these trades; salt: its secret, of SALT_BYTES.

    rebates: what market makers got out of the fees of trades that are settled now or before; the root knows none.
    """
    assert len(salt) == SALT_BYTES, "a salt that is too short hides nothing"
    leaves = leaves_of(trades, salt)
    root = Tree(leaves).root
    gains = net(trades)
    for participant_id, amount in rebates:
        for account, change in ((user(participant_id), amount), (FEES, -amount)):
            gains[account, CURRENCY] = gains.get((account, CURRENCY), 0) + change
    return Settlement(
        number=number,
        settlement_id=settlement_id(number, len(leaves), root),
        root=root,
        leaves=leaves,
        parts=split(deltas(gains), part_accounts),
        energy_wh=sum(trade.energy_wh for trade in trades),
        value_micro=sum(trade.buyer.value_micro for trade in trades),
    )


def _ended_us(now_us: TimeUs, rule: Rule) -> TimeUs:
    """When the last interval ended."""
    return now_us // rule.every_us * rule.every_us


def _chunks(changes: Sequence[Delta], size: int) -> list[tuple[Delta, ...]]:
    some = [one for one in changes if one.energy_wh or one.currency_micro]
    return [tuple(some[at : at + size]) for at in range(0, len(some), size)]
