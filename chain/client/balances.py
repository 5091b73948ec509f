"""What vaults, pools and settlements hold, and how many tokens there are, for a comparison with the books."""

from collections.abc import Mapping, Sequence
from typing import Final

from solders.account import Account
from solders.pubkey import Pubkey
from solders.token.state import Mint
from spl.token.constants import TOKEN_PROGRAM_ID

from chain.client.deployment import read_accounts
from chain.client.programs import Programs
from chain.client.publishing import house_address, tokens
from chain.client.rpc import RpcPool
from engine.settlement.netting import FEES, GRID
from engine.settlement.reconciliation import NOTHING, Amounts, OnChain
from engine.submission import ChainDown

NOBODY: Final = Pubkey.default()


class ChainBalances:
    """Methods raise ChainDown when nobody answers, or nothing is there yet."""

    def __init__(self, pool: RpcPool, programs: Programs) -> None:
        self._pool, self._trading = pool, programs.trading

    def __repr__(self) -> str:
        return f"ChainBalances({self._pool!r})"

    async def read(self, holdings: Mapping[str, tuple[str, str]], settlements: Sequence[bytes]) -> OnChain:
        """`holdings`: by account, the addresses of its energy and its currency. Confirmed, not of one instant."""
        address = self._trading.address("initialize", "market", {}, {})
        found = (await read_accounts(self._pool, [address]))[address]
        if found is None:
            raise ChainDown("the trading program is not initialized")
        market = self._trading.account(bytes(found.data), "Market")
        mints = (market["energy_mint"], market["currency_mint"])
        pools = [self._trading.address("initialize", f"{name}_pool", {}, {}) for name in ("energy", "currency")]
        settled = [
            self._trading.address("settle_batch", "settlement", {"id": one}, {"settler": NOBODY}) for one in settlements
        ]
        places = {name: tuple(map(Pubkey.from_string, pair)) for name, pair in holdings.items()}
        places |= {name: self._house(name, mints) for name in (FEES, GRID)}
        # Pools, mints and settlements come first, so that as a rule one answer has them all.
        accounts = await read_accounts(
            self._pool, [*pools, *mints, *settled, *(each for pair in places.values() for each in pair)]
        )
        held = NOTHING
        for each in settled:
            if (account := accounts[each]) is not None and account.owner == self._trading.id:
                state = self._trading.account(bytes(account.data), "Settlement")
                held = held + Amounts(state["energy_held"], state["currency_held"])
        return OnChain(
            vaults={name: Amounts(*(tokens(accounts[each]) for each in pair)) for name, pair in places.items()},
            pools=Amounts(*(tokens(accounts[each]) for each in pools)),
            held=held,
            supply=Amounts(*(_supply(accounts[each]) for each in mints)),
        )

    def _house(self, name: str, mints: tuple[Pubkey, Pubkey]) -> tuple[Pubkey, ...]:
        given = {"participant": house_address(self._trading, name), "payer": NOBODY}
        given |= {"energy_mint": mints[0], "currency_mint": mints[1]}
        return tuple(self._trading.address("create_vault", each, {}, given) for each in ("energy", "currency"))


def _supply(mint: Account | None) -> int:
    if mint is None or mint.owner != TOKEN_PROGRAM_ID:
        return 0
    return Mint.from_bytes(bytes(mint.data)).supply
