"""Account numbers by what an account is: made when first needed, with a balance of zero, and never removed."""

from collections.abc import Collection
from typing import Final, NamedTuple

from persistence.postgres import Pool

CURRENCY_ISSUED: Final = "issuance"
ENERGY_GENERATED: Final = "generation"
ENERGY_RETIRED: Final = "retired"
CUSTODY: Final = "custody"
MAIN: Final = "main"
MARKET: Final = "market"

# Sorted, so that two who make the same accounts wait for each other in a queue.
MAKE = """
    /* accounts.make */
    INSERT INTO accounts (participant_id, kind, market_id, asset)
    SELECT participant_id, kind, market_id, asset
    FROM unnest($1::bigint[], $2::text[], $3::integer[], $4::text[]) AS k (participant_id, kind, market_id, asset)
    WHERE NOT EXISTS (
        SELECT 1
        FROM accounts a
        WHERE (a.participant_id, a.kind, a.market_id, a.asset) = (k.participant_id, k.kind, k.market_id, k.asset)
    )
    ORDER BY participant_id, kind, market_id, asset
    ON CONFLICT DO NOTHING
"""
FIND = """
    /* accounts.find */
    SELECT a.participant_id, a.kind, a.market_id, a.asset, a.account_id
    FROM unnest($1::bigint[], $2::text[], $3::integer[], $4::text[]) AS k (participant_id, kind, market_id, asset)
    JOIN accounts a USING (participant_id, kind, market_id, asset)
"""


class AccountKey(NamedTuple):
    """market_id 0: not in a market; participant_id 0: a system account."""

    participant_id: int
    kind: str
    market_id: int
    asset: str


def account_key(kind: str, participant_id: int, market_id: int, asset: str) -> AccountKey:
    """The account that an entry of a market's transfer means: everything but main accounts is the market's own."""
    return AccountKey(participant_id, kind, 0 if kind == MAIN else market_id, asset)


def is_energy(asset: str) -> bool:
    return asset.startswith("energy:")


class AccountNumbers:
    """Remembers the numbers of the accounts in use: an account never becomes another one."""

    def __init__(self, pool: Pool, remembered_max: int = 200_000) -> None:
        self._pool = pool
        self._remembered_max = remembered_max
        self._known: dict[AccountKey, int] = {}

    async def of(self, keys: Collection[AccountKey]) -> dict[AccountKey, int]:
        """The number of each account; makes those that are missing.

        Call it outside of a transaction that holds accounts: it may wait for another who makes the same ones.
        """
        found = {key: self._known[key] for key in keys if key in self._known}
        missing = sorted(set(keys) - found.keys())
        if missing:
            columns = list(zip(*missing, strict=True))
            rows = await self._pool.fetch(FIND, *columns)
            if len(rows) < len(missing):
                await self._pool.execute(MAKE, *columns)
                rows = await self._pool.fetch(FIND, *columns)
            made = {AccountKey(*key): account_id for *key, account_id in rows}
            if len(self._known) + len(made) > self._remembered_max:
                self._known = dict(found)
            self._known |= made
            found |= made
        return found
