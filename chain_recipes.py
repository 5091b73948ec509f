"""How the parts that speak to the chain are made: submitter, listener, what the gateway sees of it. See recipes.py."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from actors import crash_points
from actors.clock import clock_us
from config.settings import Settings
from engine.submission import ChainDown, Holdings
from persistence.chain_desk import PostgresChainDesk
from persistence.postgres import ALWAYS_BY_KEY, Pool
from persistence.sealing import MasterKeys, Sealed, master_keys, seal, unseal
from persistence.wallets import Vault
from wiring import BACKGROUND_NICE, Wiring, pool_of, tracing_of

if TYPE_CHECKING:
    from actors.chain_listener import ChainListener
    from actors.chain_submitter import ChainSubmitter, SubmitterOptions
    from chain.client.programs import Programs
    from chain.client.rpc import RpcPool
    from chain.client.wallets import Authorities


async def make_chain_submitter(wiring: Wiring) -> "ChainSubmitter":
    import random

    from solders.pubkey import Pubkey

    from actors.chain_submitter import ChainSubmitter
    from chain.client.rotation import Rotation
    from chain.client.tables import Tables
    from chain.client.writer import ChainWriter
    from persistence.submissions import PostgresSubmissions

    settings = wiring.settings
    os.nice(BACKGROUND_NICE)
    nice = 0 if settings.database_url else BACKGROUND_NICE
    # What must wait for the disk, it says itself.
    pool = await pool_of(wiring, "chain submitter", 8, waits=False, nice=nice, settings=ALWAYS_BY_KEY)
    rpc = rpc_pool(wiring.chain_urls, settings.solana_batch_max)
    mint = settings.solana_currency_mint
    given = Pubkey.from_string(mint) if mint else None
    rotation = Rotation(rpc, programs_of(settings), authorities(settings), given)
    submissions = PostgresSubmissions(pool)
    tables = Tables(rpc, submissions) if settings.solana_lookup_tables else None
    writer = ChainWriter(rpc, rotation.effects(), rotation.signers(), settings.solana_priority_fee, rotation, tables)
    vault = Vault(pool, master_keys(settings.wallet_master_keys, settings.keys))
    return ChainSubmitter(
        submissions,
        WalletAddresses(vault),
        writer,
        clock_us,
        random.random,
        submitter_options(settings),
        crash_points.of("submitter"),
        tracing.moved if (tracing := tracing_of(settings, "chain-submitter")) is not None else None,
    )


async def make_chain_listener(wiring: Wiring) -> "ChainListener":
    from actors.chain_listener import ChainListener
    from actors.duties import Duty
    from actors.reconciliation import Reconciler, ReconcilerOptions
    from chain.client.balances import ChainBalances
    from chain.client.history import ChainReader, stream_url
    from persistence.chain_events import PostgresChainEvents
    from persistence.reconciliation import PostgresReconciliation

    settings = wiring.settings
    os.nice(BACKGROUND_NICE)
    nice = 0 if settings.database_url else BACKGROUND_NICE
    pool = await pool_of(wiring, "chain listener", 4, waits=False, nice=nice)  # what is lost is read again
    streams = settings.solana_ws_urls or tuple(map(stream_url, wiring.chain_urls))
    rpc, programs = rpc_pool(wiring.chain_urls), programs_of(settings)
    books = PostgresReconciliation(pool, settings.currency, currency_is_ours=not settings.solana_currency_mint)
    options = ReconcilerOptions(every_seconds=settings.reconciliation_every_seconds)
    reconciler = Reconciler(books, ChainBalances(rpc, programs), options)
    return ChainListener(
        PostgresChainEvents(pool, settings.currency),
        ChainReader(rpc, programs, streams),
        clock_us,
        crash=crash_points.of("listener"),
        duties=[Duty("reconciliation", 1.0, reconciler.compare_due)],
    )


class ChainView(PostgresChainDesk):
    """The chain's tables, and the chain itself for the one question that only it can answer."""

    def __init__(self, pool: Pool, urls: tuple[str, ...]) -> None:
        super().__init__(pool)
        self._urls = urls
        self._rpc: RpcPool | None = None

    async def tokens(self, holdings: Holdings) -> tuple[int, int]:
        """Raises ChainDown."""
        from chain.client.history import token_amounts

        if not self._urls:
            raise ChainDown("there is no chain")
        self._rpc = self._rpc or rpc_pool(self._urls)  # made late: most gateways are never asked
        energy_wh, currency_micro = await token_amounts(self._rpc, (holdings.energy, holdings.currency))
        return energy_wh, currency_micro


class WalletAddresses:
    """Whose address on the chain is which: that of his platform wallet."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def of(self, user_id: int) -> str:
        return await self._vault.address(user_id, clock_us())


class MasterSealer:
    """Seals keys of authorities with the master keys of wallets."""

    def __init__(self, keys: MasterKeys) -> None:
        self._keys = keys

    def seal(self, secret: bytes, belongs_to: bytes) -> bytes:
        return msgspec.msgpack.encode(seal(self._keys, secret, belongs_to))

    def unseal(self, sealed: bytes, belongs_to: bytes) -> bytes:
        return unseal(self._keys, msgspec.msgpack.decode(sealed, type=Sealed), belongs_to)


def authorities(settings: Settings) -> "Authorities":
    """The exchange's own keys on the chain, sealed in files of the data directory."""
    from chain.client.wallets import Authorities

    return Authorities(settings.keys / "chain", MasterSealer(master_keys(settings.wallet_master_keys, settings.keys)))


def rpc_pool(urls: tuple[str, ...], together_max: int = 1) -> "RpcPool":
    from chain.client.rpc import RpcPool, RpcSettings

    return RpcPool(RpcSettings(urls=urls, together_max=together_max))


def programs_of(settings: Settings) -> "Programs":
    """Those of the settings. Raises OSError, ValueError, IdlUnusable for files that are none."""
    from chain.client.programs import Programs, reference_programs
    from chain.programs.interface import NAMES

    if not settings.solana_idls:
        return reference_programs()
    folder = Path(settings.solana_idls)
    return Programs([msgspec.json.decode((folder / f"{name}.json").read_bytes()) for name in NAMES])


def submitter_options(settings: Settings) -> "SubmitterOptions":
    from actors.chain_submitter import LANES, SubmitterOptions

    given = dict(each.split(":") for each in settings.chain_lanes)
    lanes = tuple(
        msgspec.structs.replace(lane, under_way_max=int(given.get(lane.name, lane.under_way_max))) for lane in LANES
    )
    return SubmitterOptions(lanes=lanes)
