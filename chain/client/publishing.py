"""What the exchange itself tells the chain, not on behalf of one person: parts of settlements, rounds of the oracle.

See effects.py: an account that can come into being once, or a bit in one, guards each.
"""

from typing import TYPE_CHECKING, Any, Final

from solders.account import Account
from solders.instruction import AccountMeta
from solders.pubkey import Pubkey
from solders.token.state import TokenAccount
from spl.token.constants import TOKEN_PROGRAM_ID

from chain.client.judgements import UNITS_OF_CALL, Accounts, Done, Judgement, Participant, Plan
from chain.client.programs import Program
from chain.client.wallets import Role
from engine.settlement.netting import USER
from engine.submission import Effect, NotNow, Refused

if TYPE_CHECKING:
    from chain.client.effects import Effects

CANCELLED: Final = 2  # a settlement's status, as the trading program numbers it
BITS: Final = 64  # of each word in which a settlement keeps the parts that are done
UNITS_OF_PART: Final = 40_000
UNITS_OF_DELTA: Final = 20_000  # two transfers of tokens


class Parts:
    """A part of a settlement moves what was netted between vaults and pools; a bit in the settlement guards it."""

    def __init__(self, effects: "Effects") -> None:
        self._effects, self._trading = effects, effects.programs.trading

    def wants(self, effect: Effect) -> list[Pubkey]:
        parties = [self._party(effect, delta) for delta in effect.payload["deltas"]] if effect.accounts else []
        return [self._settlement(effect), *(key for one in parties for key in (one.energy, one.currency))]

    def judge(self, effect: Effect, accounts: Accounts) -> Judgement:
        payload, place = effect.payload, int(effect.payload["part"])
        found = self._effects.read(accounts, self._settlement(effect), self._trading, "Settlement")
        if found is not None:
            if found["status"] == CANCELLED:
                return Refused("the settlement was cancelled", permanent=True)
            told = {"root": bytes.fromhex(payload["root"]), "count": payload["count"], "parts": payload["parts"]}
            if other := [name for name, value in told.items() if found[name] != value]:
                return Refused(f"the settlement is another one: {', '.join(other)}", permanent=True)
            if _is_done(found, place):
                return Done()
        if not all(found is not None and _is_done(found, before) for before in range(payload["after"])):
            return NotNow("parts that pay in come first")
        metas = []
        for delta in payload["deltas"]:
            party = self._party(effect, delta)
            if accounts.get(party.energy) is None or accounts.get(party.currency) is None:
                return NotNow(f"the vault of {delta['account']} is not there yet")
            held = (tokens(accounts[party.energy]), tokens(accounts[party.currency]))
            if held[0] < -delta["energy_wh"] or held[1] < -delta["currency_micro"]:
                return NotNow(f"the vault of {delta['account']} holds less than it pays yet")
            metas += [AccountMeta(key, is_signer=False, is_writable=True) for key in _accounts(party)]
        call = self._trading.instruction("settle_batch", _arguments(payload), self._signed_by_settler(), metas)
        units, lasting = UNITS_OF_PART + UNITS_OF_DELTA * len(payload["deltas"]), tuple(meta.pubkey for meta in metas)
        return Plan((Role.SETTLER,), units, (call,), lasting=lasting)

    def _party(self, effect: Effect, delta: dict[str, Any]) -> Participant:
        name = delta["account"]
        if not name.startswith(USER):
            return self._effects.house(name)
        return self._effects.participant(effect.accounts[int(name.removeprefix(USER))])

    def _settlement(self, effect: Effect) -> Pubkey:
        number = {"id": bytes.fromhex(effect.payload["settlement"])}
        return self._trading.address("settle_batch", "settlement", number, self._signed_by_settler())

    def _signed_by_settler(self) -> dict[str, Pubkey]:
        return {"settler": self._effects.signers[Role.SETTLER]}


class Rounds:
    """A round of the oracle, guarded by its own account; each after the one before it, as the program wants it."""

    def __init__(self, effects: "Effects") -> None:
        self._effects, self._oracle = effects, effects.programs.oracle

    def wants(self, effect: Effect) -> list[Pubkey]:
        return [self._address(effect, "feed"), self._address(effect, "round")]

    def judge(self, effect: Effect, accounts: Accounts) -> Judgement:
        values = self._values(effect)
        if found := self._effects.read(accounts, self._address(effect, "round"), self._oracle, "Round"):
            return self._effects.compare(found, **values)
        feed = self._effects.read(accounts, self._address(effect, "feed"), self._oracle, "Feed")
        last = feed["number"] if feed is not None else 0
        if last > values["number"]:
            return Refused("a later round of the feed is on the chain", permanent=True)
        if last < effect.payload.get("previous", 0):
            return NotNow("the round before it is not there yet")
        call = self._oracle.instruction("publish", values, {"publisher": self._effects.signers[Role.PUBLISHER]})
        return Plan((Role.PUBLISHER,), UNITS_OF_CALL, (call,))

    def _values(self, effect: Effect) -> dict[str, Any]:
        names = ("number", "value", "spread", "at", "providers")
        return {"feed_id": bytes.fromhex(effect.payload["feed_id"]), **{name: effect.payload[name] for name in names}}

    def _address(self, effect: Effect, account: str) -> Pubkey:
        given = {"publisher": self._effects.signers[Role.PUBLISHER]}
        return self._oracle.address("publish", account, self._values(effect), given)


def house_address(trading: Program, name: str) -> Pubkey:
    """Of an account of the exchange's own: nobody has a key of it."""
    return Pubkey.find_program_address([b"house", name.encode()], trading.id)[0]


def tokens(account: Account | None) -> int:
    """What a token account holds; nothing when it is not there."""
    if account is None or account.owner != TOKEN_PROGRAM_ID:
        return 0
    return TokenAccount.from_bytes(bytes(account.data)).amount


def _is_done(settlement: dict[str, Any], part: int) -> bool:
    return bool(settlement["done"][part // BITS] >> part % BITS & 1)


def _accounts(party: Participant) -> tuple[Pubkey, Pubkey, Pubkey]:
    return party.vault, party.energy, party.currency


def _arguments(payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": bytes.fromhex(payload["settlement"]),
        "root": bytes.fromhex(payload["root"]),
        "count": payload["count"],
        "part": payload["part"],
        "parts": payload["parts"],
        "deltas": [{"energy": one["energy_wh"], "currency": one["currency_micro"]} for one in payload["deltas"]],
    }
