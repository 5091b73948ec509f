"""What commands have in common: the console, the way to fail, the way to the database and to the API."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import httpx
from rich.console import Console

from config.load import load
from config.settings import Settings
from persistence.embedded import AlreadyRunning, EmbeddedPostgres, StartFailed

console = Console(highlight=False)
T = TypeVar("T")


class Failure(Exception):
    """Ends a command with a message and status 1."""


def with_database(work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Do something with the database: the configured one, the running private one, or that one started for it."""

    async def inside() -> T:
        async with _database(load()) as dsn:
            return await work(dsn)

    return asyncio.run(inside())


async def stoppable(work: Coroutine[Any, Any, T]) -> T:
    """Have SIGTERM end this as Ctrl-C does: in order, with what was begun taken back."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    return await work


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[str]:
    if settings.database_url:
        yield settings.database_url
        return
    if settings.unfinished.exists():
        raise Failure(f"a restore into {settings.folder} was not finished: empty that folder, and restore again")
    server = EmbeddedPostgres(settings.folder)
    try:
        yield await asyncio.to_thread(server.start)
    except AlreadyRunning:
        yield server.address
    except StartFailed as error:
        raise Failure(str(error)) from error
    finally:
        await asyncio.to_thread(server.stop)


def api_of(settings: Settings) -> httpx.Client:
    return httpx.Client(base_url=settings.url, timeout=10)
