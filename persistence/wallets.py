"""Wallets of people: addresses that they have proven, and platform wallets, whose secret is sealed here.

Whatever counts somebody's wallets or challenges holds his row of `users` first, so that two requests at once cannot
each see room for the last one. A platform wallet's seed leaves this file only through `Vault.open`, for the chain.
"""

import contextlib
from typing import Final

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from solders.pubkey import Pubkey

from engine.audit import SYSTEM, Origin
from engine.records import AddressTaken, ChallengeGone, PlatformWalletKept, WalletRecord, WalletsFull
from persistence.audit_log import append
from persistence.people import subject_of
from persistence.postgres import Pool
from persistence.sealing import MasterKeyProblem, MasterKeys, SealBroken, Sealed, seal, unseal

UNBOUNDED: Final = 2**31
SWEPT_MAX: Final = 1_000  # a challenge's share of sweeping, so that none pays for a long one

HOLD_USER = "/* wallets.hold_user */ SELECT 1 FROM users WHERE user_id = $1 FOR NO KEY UPDATE"
SWEEP_CHALLENGES = """
    /* wallets.sweep_challenges */
    DELETE FROM wallet_challenges
    WHERE (user_id, address) IN (
        SELECT user_id, address
        FROM wallet_challenges
        WHERE expires_us <= $1
        ORDER BY expires_us
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
"""
COUNT_CHALLENGES = """
    /* wallets.count_challenges */
    SELECT count(*)
    FROM wallet_challenges
    WHERE user_id = $1
        AND address <> $2
        AND expires_us > $3
"""
PUT_CHALLENGE = """
    /* wallets.put_challenge */
    INSERT INTO wallet_challenges (user_id, address, challenge, expires_us)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (user_id, address) DO UPDATE
        SET challenge = EXCLUDED.challenge,
            expires_us = EXCLUDED.expires_us
"""
CHALLENGE = """
    /* wallets.challenge */
    SELECT challenge
    FROM wallet_challenges
    WHERE user_id = $1
        AND address = $2
        AND expires_us > $3
"""
USE_CHALLENGE = """
    /* wallets.use_challenge */
    DELETE FROM wallet_challenges
    WHERE user_id = $1
        AND address = $2
        AND challenge = $3
        AND expires_us > $4
    RETURNING 1
"""
COUNT = "/* wallets.count */ SELECT count(*) FROM wallets WHERE user_id = $1"
ADD = """
    /* wallets.add */
    INSERT INTO wallets (address, user_id, kind, is_primary, created_us, key_version, nonce, sealed)
    SELECT $1, $2, $3, NOT EXISTS (SELECT FROM wallets WHERE user_id = $2 AND is_primary), $4, $5, $6, $7
    ON CONFLICT (address) DO NOTHING
    RETURNING address, user_id, kind, is_primary, created_us
"""
OF_USER = """
    /* wallets.of_user */
    SELECT address, user_id, kind, is_primary, created_us
    FROM wallets
    WHERE user_id = $1
    ORDER BY created_us, address
    LIMIT 1000
"""
ONE = """
    /* wallets.one */
    SELECT address, user_id, kind, is_primary, created_us
    FROM wallets
    WHERE user_id = $1
        AND address = $2
"""
UNSET_PRIMARY = """
    /* wallets.unset_primary */
    UPDATE wallets
    SET is_primary = false
    WHERE user_id = $1
        AND is_primary
    RETURNING address
"""
SET_PRIMARY = """
    /* wallets.set_primary */
    UPDATE wallets
    SET is_primary = true
    WHERE user_id = $1
        AND address = $2
    RETURNING address, user_id, kind, is_primary, created_us
"""
REMOVE = "/* wallets.remove */ DELETE FROM wallets WHERE user_id = $1 AND address = $2"
PROMOTE_OLDEST = """
    /* wallets.promote_oldest */
    UPDATE wallets
    SET is_primary = true
    WHERE address = (SELECT address FROM wallets WHERE user_id = $1 ORDER BY created_us, address LIMIT 1)
"""
SEALED_OF_USER = """
    /* wallets.sealed_of_user */
    SELECT address, user_id, key_version, nonce, sealed
    FROM wallets
    WHERE user_id = $1
        AND kind = 'platform'
"""
SEALED_BEFORE = """
    /* wallets.sealed_before */
    SELECT address, user_id, key_version, nonce, sealed
    FROM wallets
    WHERE kind = 'platform'
        AND key_version <> $1
        AND address > $2
    ORDER BY address
    LIMIT $3
    FOR UPDATE
"""
COUNT_BEFORE = "/* wallets.count_before */ SELECT count(*) FROM wallets WHERE kind = 'platform' AND key_version <> $1"
RESEAL = "/* wallets.reseal */ UPDATE wallets SET key_version = $2, nonce = $3, sealed = $4 WHERE address = $1"


class NoPlatformWallet(Exception):
    """This person has no platform wallet."""


class PostgresWallets:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def put_challenge(
        self, user_id: int, address: str, challenge: str, now_us: int, expires_us: int, open_max: int
    ) -> None:
        """Keep what this person is asked to sign, in place of an earlier one for the address. Raises WalletsFull.

        Also sweeps a bounded number of challenges that have expired.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(HOLD_USER, user_id)
            await connection.execute(SWEEP_CHALLENGES, now_us, SWEPT_MAX)
            if await connection.fetchval(COUNT_CHALLENGES, user_id, address, now_us) >= open_max:
                raise WalletsFull(open_max)
            await connection.execute(PUT_CHALLENGE, user_id, address, challenge, expires_us)

    async def challenge(self, user_id: int, address: str, now_us: int) -> str | None:
        """What this person was asked to sign for the address, while it holds."""
        found: str | None = await self._pool.fetchval(CHALLENGE, user_id, address, now_us)
        return found

    async def link(
        self, user_id: int, address: str, challenge: str, now_us: int, wallets_max: int, origin: Origin = SYSTEM
    ) -> WalletRecord:
        """Use the challenge up and add the address; a person's first wallet is his primary one.

        Raises ChallengeGone; WalletsFull, which leaves the challenge; AddressTaken, which does not.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(HOLD_USER, user_id)
            if await connection.fetchval(COUNT, user_id) >= wallets_max:
                raise WalletsFull(wallets_max)
            if await connection.fetchval(USE_CHALLENGE, user_id, address, challenge, now_us) is None:
                raise ChallengeGone
            row = await connection.fetchrow(ADD, address, user_id, "linked", now_us, None, None, None)
            if row is not None:
                after = {"address": address, "primary": row["is_primary"]}
                await append(connection, origin, "wallet.linked", subject_of(user_id), None, after)
        if row is None:
            raise AddressTaken
        return WalletRecord(*row)

    async def wallets(self, user_id: int) -> list[WalletRecord]:
        """This person's wallets, oldest first."""
        return [WalletRecord(*row) for row in await self._pool.fetch(OF_USER, user_id)]

    async def make_primary(self, user_id: int, address: str, origin: Origin = SYSTEM) -> WalletRecord | None:
        """None: this person has no such wallet, and nothing has changed."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(HOLD_USER, user_id)
            row = await connection.fetchrow(ONE, user_id, address)
            if row is None or row["is_primary"]:
                return WalletRecord(*row) if row is not None else None
            before = await connection.fetchval(UNSET_PRIMARY, user_id)
            row = await connection.fetchrow(SET_PRIMARY, user_id, address)
            assert row is not None, "it was there, and its owner's row is held"
            was, is_now = {"primary": before}, {"primary": address}
            await append(connection, origin, "wallet.chosen", subject_of(user_id), was, is_now)
        return WalletRecord(*row)

    async def remove(self, user_id: int, address: str, origin: Origin = SYSTEM) -> bool:
        """False: this person has no such wallet. After the primary one, the oldest is. Raises PlatformWalletKept."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(HOLD_USER, user_id)
            row = await connection.fetchrow(ONE, user_id, address)
            if row is None:
                return False
            found = WalletRecord(*row)
            if found.kind == "platform":
                raise PlatformWalletKept
            await connection.execute(REMOVE, user_id, address)
            if found.primary:
                await connection.execute(PROMOTE_OLDEST, user_id)
            was = {"address": address, "primary": found.primary}
            await append(connection, origin, "wallet.removed", subject_of(user_id), was, None)
        return True


class Resealed(Struct, frozen=True):
    """One batch of a rotation. last: where the next one goes on, empty at the end; damaged: addresses left alone."""

    last: str
    done: int
    damaged: list[str]


class _Row(Struct, frozen=True):
    """A platform wallet with its sealed seed."""

    address: str
    user_id: int
    sealed: Sealed

    @property
    def belongs_to(self) -> bytes:
        return _belongs_to(self.user_id, self.address)


class Vault:
    """Platform wallets: made here, sealed here, and opened for the chain's signers alone."""

    def __init__(self, pool: Pool, keys: MasterKeys) -> None:
        self._pool, self._keys = pool, keys

    def __repr__(self) -> str:
        return f"Vault({self._keys!r})"

    async def make(self, user_id: int, now_us: int, wallets_max: int, origin: Origin = SYSTEM) -> WalletRecord:
        """A new key pair for this person. Raises PlatformWalletKept for a second one, WalletsFull."""
        private_key = Ed25519PrivateKey.generate()
        address = str(Pubkey.from_bytes(private_key.public_key().public_bytes_raw()))
        sealed = seal(self._keys, private_key.private_bytes_raw(), _belongs_to(user_id, address))
        values = (sealed.key_version, sealed.nonce, sealed.ciphertext)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(HOLD_USER, user_id)
            if await connection.fetchrow(SEALED_OF_USER, user_id) is not None:
                raise PlatformWalletKept
            if await connection.fetchval(COUNT, user_id) >= wallets_max:
                raise WalletsFull(wallets_max)
            row = await connection.fetchrow(ADD, address, user_id, "platform", now_us, *values)
            assert row is not None, "nobody else has a key that was drawn a moment ago"
            after = {"address": address, "primary": row["is_primary"], "key_version": sealed.key_version}
            await append(connection, origin, "wallet.made", subject_of(user_id), None, after)
        return WalletRecord(*row)

    async def address(self, user_id: int, now_us: int) -> str:
        """This person's platform wallet, made without a bound if there is none: the chain knows people by it."""
        row = await self._pool.fetchrow(SEALED_OF_USER, user_id)
        if row is None:
            with contextlib.suppress(PlatformWalletKept):  # somebody has been quicker
                return (await self.make(user_id, now_us, UNBOUNDED)).address
            row = await self._pool.fetchrow(SEALED_OF_USER, user_id)
        assert row is not None, "a platform wallet is never removed"
        return str(row["address"])

    async def open(self, user_id: int) -> bytes:
        """The seed (32 bytes) of this person's platform wallet: sign with it, and let it go.

        Raises NoPlatformWallet; SealBroken or MasterKeyProblem when it cannot be opened.
        """
        row = await self._pool.fetchrow(SEALED_OF_USER, user_id)
        if row is None:
            raise NoPlatformWallet(user_id)
        found = _row(row)
        return unseal(self._keys, found.sealed, found.belongs_to)

    async def behind(self) -> int:
        """How many wallets are not sealed with the newest master key."""
        return int(await self._pool.fetchval(COUNT_BEFORE, self._keys.newest()) or 0)

    async def reseal(self, after: str, limit: int) -> Resealed:
        """Seal the next `limit` wallets after this address with the newest master key, in one transaction.

        Begin with ""; a batch that was interrupted has done nothing, and beginning again does only what is left.
        """
        newest, done, damaged, last = self._keys.newest(), 0, [], ""
        async with self._pool.acquire() as connection, connection.transaction():
            for row in map(_row, await connection.fetch(SEALED_BEFORE, newest, after, limit)):
                last = row.address
                try:
                    fresh = seal(self._keys, unseal(self._keys, row.sealed, row.belongs_to), row.belongs_to)
                except (SealBroken, MasterKeyProblem):
                    damaged.append(row.address)
                    continue
                await connection.execute(RESEAL, row.address, fresh.key_version, fresh.nonce, fresh.ciphertext)
                done += 1
            if done:
                await append(
                    connection, SYSTEM, "wallet.resealed", "wallets", None, {"key_version": newest, "count": done}
                )
        return Resealed(last, done, damaged)


def _row(row: asyncpg.Record) -> _Row:
    return _Row(row["address"], row["user_id"], Sealed(row["key_version"], row["nonce"], row["sealed"]))


def _belongs_to(user_id: int, address: str) -> bytes:
    return b"wallet\x00" + user_id.to_bytes(8, "big") + bytes(Pubkey.from_string(address))
