"""A database, a local chain, and the two joined by the real submitter, in this process, with short waits."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token.instructions import get_associated_token_address

from actors.chain_listener import ChainListener, ListenerOptions
from actors.chain_submitter import ChainSubmitter, Lane, SubmitterOptions
from actors.clock import clock_us
from actors.reconciliation import Reconciler, ReconcilerOptions
from chain.client.balances import ChainBalances
from chain.client.deployment import own_currency_mint
from chain.client.effects import Effects
from chain.client.history import ChainReader
from chain.client.programs import reference_programs
from chain.client.rotation import Rotation
from chain.client.rpc import RpcPool, RpcSettings
from chain.client.tables import Tables
from chain.client.transactions import Budget, latest_blockhash, send, sign
from chain.client.wallets import Authorities, Role, Signer
from chain.client.writer import ChainWriter
from engine.records import ZoneRecord
from persistence.catalogue import PostgresCatalogue
from persistence.chain_events import PostgresChainEvents
from persistence.ledger import PostgresLedger
from persistence.people import PostgresPeople
from persistence.reconciliation import PostgresReconciliation
from persistence.sealing import MasterKeyFolder
from persistence.submissions import PostgresSubmissions
from persistence.wallets import Vault
from tests.support.devnet import DevnetProcess
from tests.support.patience import HUNG_SECONDS

PROGRAMS: Final = reference_programs()
QUICK: Final = SubmitterOptions(
    idle_seconds=0.05,
    follow_seconds=0.05,
    confirmed_seconds=0.05,
    resend_seconds=0.2,
    say_seconds=0.1,
    tend_seconds=0.1,
)


class Open:
    """Seals nothing: for keys that only tests hold."""

    def seal(self, secret: bytes, belongs_to: bytes) -> bytes:
        return secret

    def unseal(self, sealed: bytes, belongs_to: bytes) -> bytes:
        return sealed


def keys_of(folder: Path) -> tuple[Effects, dict[Role, Signer]]:
    """Of the exchange, made in the folder if there are none."""
    authorities = Authorities(folder / "authorities", Open())
    signers = {role: authorities.signer(role) for role in Role}
    addresses = {role: signer.address for role, signer in signers.items()}
    return Effects(PROGRAMS, addresses, own_currency_mint(addresses[Role.GOVERNANCE])), signers


def pool_of(url: str) -> RpcPool:
    return RpcPool(RpcSettings(urls=(url,), timeout_seconds=2, total_seconds=4, wait_seconds=0.01, open_seconds=0.2))


class OnChain:
    """`pool` is a fresh database's; the keys are in `folder`, and the devnet knows them."""

    def __init__(self, devnet: DevnetProcess, pool: asyncpg.Pool, folder: Path) -> None:
        self.devnet, self.pool, self.folder = devnet, pool, folder
        self.running: asyncio.Task[None] | None = None
        self.effects, self.signers = keys_of(folder)
        self.submissions = PostgresSubmissions(pool)
        self.ledger = PostgresLedger(pool)
        self.vault = Vault(pool, MasterKeyFolder(folder / "keys"))

    async def of(self, user_id: int) -> str:
        return await self.vault.address(user_id, clock_us())

    def pool_of(self) -> RpcPool:
        return pool_of(self.devnet.url)

    @contextlib.asynccontextmanager
    async def submitting(
        self, crash: Callable[[str], None] | None = None, options: SubmitterOptions = QUICK, *, tables: bool = False
    ) -> AsyncIterator[ChainSubmitter]:
        """`tables`: with address lookup tables."""
        async with self.pool_of() as rpc:
            rotation = Rotation(rpc, PROGRAMS, Authorities(self.folder / "authorities", Open()))
            held = Tables(rpc, self.submissions) if tables else None
            writer = ChainWriter(rpc, rotation.effects(), rotation.signers(), rotation=rotation, tables=held)
            submitter = ChainSubmitter(self.submissions, self, writer, clock_us, lambda: 0.5, options, crash)
            self.running = asyncio.create_task(submitter.run())
            try:
                yield submitter
            finally:
                self.running.cancel()
                await asyncio.wait([self.running])
                self.running = None

    @contextlib.asynccontextmanager
    async def listening(self, crash: Callable[[str], None] | None = None) -> AsyncIterator[ChainListener]:
        async with self.pool_of() as rpc:
            reader = ChainReader(rpc, PROGRAMS, (self.devnet.ws,))
            options = ListenerOptions(silence_seconds=1.0, final_seconds=0.1, say_seconds=0.1)
            listener = ChainListener(PostgresChainEvents(self.pool, "THB"), reader, clock_us, options, crash)
            task = asyncio.create_task(listener.run())
            try:
                yield listener
            finally:
                ended = task.done()
                task.cancel()
                await asyncio.wait([task])
                if ended:
                    await task  # it raises what ended it

    @contextlib.asynccontextmanager
    async def reconciling(self) -> AsyncIterator[Reconciler]:
        """Its differences must be seen twice, a moment apart."""
        async with self.pool_of() as rpc:
            options = ReconcilerOptions(every_seconds=0, again_seconds=0, look_seconds=0.2)
            books = PostgresReconciliation(self.pool, "THB")
            yield Reconciler(books, ChainBalances(rpc, PROGRAMS), options)

    async def people(self, *names: str) -> list[int]:
        await PostgresCatalogue(self.pool).put_zones([ZoneRecord("Z1", "One")])
        people = PostgresPeople(self.pool)
        made = [await people.create(f"{name}@example.org", name, b"hash", "student", "Z1", 5) for name in names]
        return [user.user_id for user in made]

    async def states(self, kind: str = "") -> list[str]:
        rows = await self.pool.fetch("SELECT kind, state FROM chain_submissions ORDER BY number")
        return [row["state"] for row in rows if kind in ("", row["kind"])]

    async def until(self, holds: Callable[[], Any], what: str = "") -> None:
        deadline = monotonic() + HUNG_SECONDS
        while not await holds():
            if self.running is not None and self.running.done():
                await self.running  # it raises what ended it
            if monotonic() > deadline:
                rows = await self.pool.fetch("SELECT number, kind, key, state, attempt, reason FROM chain_submissions")
                raise AssertionError(f"{what}: {[tuple(row) for row in rows]}")
            await asyncio.sleep(0.05)

    async def until_final(self) -> None:
        async def final() -> bool:
            states = await self.states()
            return bool(states) and set(states) == {"finalized"}

        await self.until(final, "not all final")

    def tokens(self, address: str | Pubkey) -> int:
        """What a token account holds now."""
        try:
            return int(self.devnet.call("getTokenAccountBalance", str(address))["value"]["amount"])
        except RuntimeError:
            return 0

    def account(self, program: str, kind: str, address: Pubkey) -> dict[str, Any]:
        data = self.devnet.call("getAccountInfo", str(address), {"encoding": "base64"})["value"]["data"][0]
        return dict(getattr(PROGRAMS, program).account(base64.b64decode(data), kind))

    def pools(self) -> tuple[int, int]:
        """Energy and currency that settlements hold."""
        given = {"energy_mint": self.effects.energy_mint, "currency_mint": self.effects.currency_mint}
        given["authority"] = self.effects.signers[Role.GOVERNANCE]
        energy, currency = (
            PROGRAMS.trading.address("initialize", f"{name}_pool", {}, given) for name in ("energy", "currency")
        )
        return self.tokens(energy), self.tokens(currency)

    async def events(self, state: str = "finalized") -> list[str]:
        rows = await self.pool.fetch("SELECT name FROM chain_events WHERE state = $1 ORDER BY slot", state)
        return [row["name"] for row in rows]

    def pay_in(self, owner: Keypair, address: str, asset: int, amount: int) -> Any:
        """The instruction with which `owner` deposits from his own token account into somebody's vault."""
        person = self.effects.participant(address)
        mint, holding = (
            (self.effects.energy_mint, person.energy) if asset == 0 else (self.effects.currency_mint, person.currency)
        )
        given = {
            "holding": holding,
            "source": get_associated_token_address(owner.pubkey(), mint),
            "participant": person.address,
            "owner": owner.pubkey(),
        }
        return PROGRAMS.trading.instruction("deposit", {"amount": amount, "asset": asset}, given)

    async def land(self, signers: Sequence[Signer], *instructions: Any) -> str:
        """Send and wait until it is there; its signature."""
        async with self.pool_of() as rpc:
            signed = sign(instructions, signers, await latest_blockhash(rpc), Budget(400_000))
            await send(rpc, signed)

            async def there() -> bool:
                status = self.devnet.call("getSignatureStatuses", [signed.signature])["value"][0]
                assert status is None or status["err"] is None, status
                return status is not None

            await self.until(there, "landed")
            return signed.signature

    async def held(self, user_id: int) -> tuple[int, int]:
        """Energy and currency of his vault."""
        row = await self.pool.fetchrow("SELECT energy, currency FROM chain_accounts WHERE user_id = $1", user_id)
        return (0, 0) if row is None else (self.tokens(row["energy"]), self.tokens(row["currency"]))


def narrow(name: str, under_way_max: int) -> SubmitterOptions:
    """One lane alone, with a bound."""
    lanes = (Lane("register", 64), Lane(name, under_way_max), Lane("govern", 4, pausable=False))
    return SubmitterOptions(
        lanes=lanes, idle_seconds=0.05, follow_seconds=0.05, confirmed_seconds=0.05, resend_seconds=0.2, say_seconds=0.1
    )
