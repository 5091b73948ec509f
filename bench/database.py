"""A database of a bench's own, in the server of the exchange or in one for the time being, dropped afterwards."""

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg

from persistence.embedded import EmbeddedPostgres


@contextlib.contextmanager
def server(data_dir: Path | None) -> Iterator[str]:
    """The address of the private server below this directory; without one, of a server that is started here."""
    if data_dir is not None:
        yield EmbeddedPostgres(data_dir).address
        return
    with tempfile.TemporaryDirectory(prefix="wb-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # the server runs as another user when root starts it
        postgres = EmbeddedPostgres(Path(folder))
        try:
            yield postgres.start()
        finally:
            postgres.stop()


@contextlib.asynccontextmanager
async def empty_database(address: str) -> AsyncIterator[str]:
    """The address of a new database in the server behind `address`."""
    name = f"bench_{secrets.token_hex(6)}"
    keeper = await asyncpg.connect(address)
    try:
        await keeper.execute(f"CREATE DATABASE {name}")
        try:
            before, _, parameters = address.partition("?")
            yield f"{before.rpartition('/')[0]}/{name}?{parameters}"
        finally:
            await keeper.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await keeper.close()
