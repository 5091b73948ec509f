"""What happened on the chain: events of our programs, as they are confirmed, and as they are final for ever.

A stream over a WebSocket tells of them early and may miss some; each program's list of signatures misses none. Failed
transactions have no events.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast
from urllib.parse import urlsplit, urlunsplit

import structlog
from msgspec import Struct
from solana.rpc.commitment import Commitment, Confirmed, Finalized
from solana.rpc.core import RPCException
from solana.rpc.websocket_api import SolanaWsClientProtocol, connect
from solders.pubkey import Pubkey
from solders.rpc.config import RpcTransactionLogsFilterMentions
from solders.rpc.responses import LogsNotification, SlotNotification
from solders.signature import Signature
from solders.token.state import TokenAccount
from websockets.exceptions import WebSocketException

from chain.client.events import LogUnusable, events
from chain.client.programs import CannotDecode, Programs
from chain.client.rpc import RpcPool
from engine.submission import ChainDown, ChainEvent, Mention

PAGE: Final = 1_000  # signatures in one answer
BACKLOG_MAX: Final = 50_000  # signatures held at once; of more, the oldest, and the rest in the next round
FETCHES_AT_ONCE: Final = 8
GATHERED_MAX: Final = 256  # transactions whose events are held until the next slot is told
CONNECT_SECONDS_MAX: Final = 10.0

log = structlog.get_logger()


class Heard(Struct, frozen=True):
    """Up to this slot: the events since the one before, often none."""

    slot: int
    events: list[ChainEvent]


class ChainReader:
    """Methods raise ChainDown when nobody answers."""

    def __init__(self, pool: RpcPool, programs: Programs, stream_urls: Sequence[str]) -> None:
        self._pool, self._programs, self._stream_urls = pool, programs, tuple(stream_urls)
        self._next = 0

    def __repr__(self) -> str:
        return f"ChainReader({self._pool!r})"

    @property
    def programs(self) -> tuple[str, ...]:
        return tuple(program.name for program in self._programs.all)

    async def slots(self) -> tuple[int, int]:
        """The newest slot that is confirmed, and the newest that is final."""
        confirmed = (await self._pool.ask(lambda client: client.get_slot(Confirmed))).value
        return confirmed, (await self._pool.ask(lambda client: client.get_slot(Finalized))).value

    async def mentions(self, program: str, after: str, *, final: bool) -> list[Mention]:
        """Transactions that name the program, after that signature ("" for all), oldest first."""
        address = next(each.id for each in self._programs.all if each.name == program)
        until = Signature.from_string(after) if after else None
        level: Commitment = Finalized if final else Confirmed
        held: deque[Mention] = deque(maxlen=BACKLOG_MAX)
        before: Signature | None = None
        while True:
            page = await self._page(address, before, until, level)
            held += [Mention(str(each.signature), each.slot, each.err is not None) for each in page]
            if len(page) < PAGE:
                return list(reversed(held))
            before = page[-1].signature

    async def events_of(self, mentions: Sequence[Mention]) -> list[ChainEvent]:
        """Of these transactions, in their order."""
        at_once = asyncio.Semaphore(FETCHES_AT_ONCE)

        async def one(mention: Mention) -> list[ChainEvent]:
            async with at_once:
                return await self._fetched(mention)

        found = await asyncio.gather(*(one(each) for each in mentions if not each.failed))
        return [event for events_ in found for event in events_]

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[Heard]]:
        """Every slot, and events as they are confirmed, from when it is entered on. Raises ChainDown in its midst."""
        url = self._stream_urls[self._next % len(self._stream_urls)]
        self._next += 1
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                socket = cast(SolanaWsClientProtocol, await connect(url))
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ChainDown(f"{urlsplit(url).hostname}: {error!r}") from error
        try:
            for program in self._programs.all:
                await socket.logs_subscribe(RpcTransactionLogsFilterMentions(program.id), Confirmed)
            await socket.slot_subscribe()
            yield self._hear(socket)
        except (OSError, WebSocketException) as error:
            raise ChainDown(f"{urlsplit(url).hostname}: {error!r}") from error
        finally:
            await socket.close()

    async def _hear(self, socket: SolanaWsClientProtocol) -> AsyncIterator[Heard]:
        """Slot by slot, with what was told since the one before; at once when that is much.

        A transaction is told once for each of our programs that it names; of the same slot, the first time will do.
        """
        gathered: dict[str, tuple[int, list[ChainEvent]]] = {}  # by signature, its slot and events
        newest = 0
        while True:
            for message in await socket.recv():
                if isinstance(message, LogsNotification):
                    value, slot = message.result.value, message.result.context.slot
                    newest, signature = max(newest, slot), str(value.signature)
                    if value.err is None and gathered.get(signature, (0, []))[0] != slot:
                        gathered[signature] = slot, self._events(signature, slot, value.logs)
                elif isinstance(message, SlotNotification):
                    newest = max(newest, message.result.slot)
                if isinstance(message, SlotNotification) or len(gathered) >= GATHERED_MAX:
                    yield Heard(newest, [event for _, events_ in gathered.values() for event in events_])
                    gathered = {}

    async def _page(self, address: Pubkey, before: Signature | None, until: Signature | None, level: Commitment) -> Any:
        try:
            answer = await self._pool.ask(
                lambda client: client.get_signatures_for_address(address, before, until, PAGE, level)
            )
        except RPCException as error:
            raise ChainDown(str(error)[:200]) from error
        return answer.value

    async def _fetched(self, mention: Mention) -> list[ChainEvent]:
        signature = Signature.from_string(mention.signature)
        try:
            answer = await self._pool.ask(lambda client: client.get_transaction(signature, "json", Confirmed, 0))
        except RPCException as error:
            raise ChainDown(str(error)[:200]) from error
        found = answer.value
        if found is None or found.transaction.meta is None:
            raise ChainDown(f"{mention.signature} is in a list, and cannot be had")
        return self._events(mention.signature, found.slot, found.transaction.meta.log_messages or [])

    def _events(self, signature: str, slot: int, logs: Sequence[str]) -> list[ChainEvent]:
        try:
            placed = events(self._programs, list(logs))
        except (LogUnusable, CannotDecode) as error:
            log.error("chain.log_unusable", signature=signature, why=str(error))
            return []
        return [
            ChainEvent(signature, each.instruction, each.index, slot, each.event.program, each.event.name, fields)
            for each in placed
            for fields in ({name: _plain(value) for name, value in each.event.fields.items()},)
        ]


async def token_amounts(pool: RpcPool, addresses: Sequence[str]) -> list[int]:
    """What these token accounts hold, in base units; 0 for one that is not there. Raises ChainUnavailable."""
    keys = [Pubkey.from_string(each) for each in addresses]
    found = (await pool.ask(lambda client: client.get_multiple_accounts(keys, Confirmed))).value
    return [TokenAccount.from_bytes(bytes(each.data)).amount if each is not None else 0 for each in found]


def stream_url(url: str) -> str:
    """Where a node's WebSocket usually is: the next port, or the same address when it names none."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    if parts.port is None:
        return urlunsplit(parts._replace(scheme=scheme))
    front, _, _ = parts.netloc.rpartition(":")
    return urlunsplit(parts._replace(scheme=scheme, netloc=f"{front}:{parts.port + 1}"))


def _plain(value: Any) -> Any:
    """As JSON has it; integers beyond 53 bits are for those who read integers."""
    match value:
        case Pubkey():
            return str(value)
        case bytes():
            return value.hex()
        case list():
            return [_plain(each) for each in value]
    return value
