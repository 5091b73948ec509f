"""A proxy that connections go through while it is open, and that fails as networks do.

Of the data plane: its file tells the processes of an installation where it is (actors/detour.py). Of a server with a
Unix socket: it takes that socket's place. Those that are connected already are not asked. What it does not let through
is not lost but late, or the connection ends: TCP knows nothing else.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

CHUNK_BYTES = 65_536
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Beyond = Callable[[asyncio.StreamReader], Awaitable[Streams]]  # where a connection goes; it may say so itself


class Hole:
    """`count`: connections that were made through it; `delay_seconds`: of each chunk, in both directions."""

    def __init__(self, beyond: Beyond) -> None:
        self._beyond = beyond
        self.count = 0
        self.delay_seconds = 0.0
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def silence(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self._open.clear()

    def heal(self) -> None:
        """What was sent meanwhile arrives."""
        self._open.set()
        self.delay_seconds = 0.0

    def cut(self) -> None:
        """Every connection ends, with what was under way on it."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def used(self, count: int) -> None:
        """Wait until so many connections have been made through it."""
        while True:
            if self.count >= count:
                return
            await asyncio.sleep(0.01)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there, back = await self._beyond(reader)
        except (OSError, ValueError):
            writer.transport.abort()
            return
        self.count += 1
        self._writers |= {writer, back}
        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(reader, back))
                tasks.create_task(self._carry(there, writer))
        self._writers -= {writer, back}

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            writer.transport.abort()
        else:
            writer.close()

    async def end(self) -> None:
        self.heal()
        self.cut()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def hole(file: Path) -> AsyncIterator[Hole]:
    """Open until the block ends; then every connection through it ends, and new ones go straight."""
    made = Hole(_as_it_says)
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    file.write_text(f"{host}:{port}")
    try:
        yield made
    finally:
        file.unlink()
        server.close()
        await made.end()


@asynccontextmanager
async def hole_before(server: Path) -> AsyncIterator[Hole]:
    """In the place of this Unix socket until the block ends; then every connection through it ends."""
    behind, before = server.with_name(server.name + ".behind"), server.with_name(server.name + ".before")

    async def beyond(_reader: asyncio.StreamReader) -> Streams:
        return await asyncio.open_unix_connection(behind)

    made = Hole(beyond)
    listening = await asyncio.start_unix_server(made.accept, before)
    server.rename(behind)
    before.rename(server)
    try:
        yield made
    finally:
        behind.rename(server)
        listening.close()
        await made.end()


async def _as_it_says(reader: asyncio.StreamReader) -> Streams:
    """Its first line is the address that it means."""
    host, _, port = (await reader.readline()).decode().strip().rpartition(":")
    return await asyncio.open_connection(host, int(port))
