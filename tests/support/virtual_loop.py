"""An event loop whose time jumps to the next timer when nothing is ready, and whose network is memory.

A minute of waiting costs nothing, and the same program runs the same way every time: nothing here asks the operating
system for a time or a socket. When nothing is ready and no timer is set, the program hangs for ever: that is raised.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Mapping
from typing import Any, Final

START_SECONDS: Final = 1_000.0
ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class HangsForEver(Exception):
    """Every task waits for another one."""


class _Jump(selectors.BaseSelector):
    """Selects nothing; instead of waiting, moves the clock."""

    def __init__(self) -> None:
        self.now = START_SECONDS
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise HangsForEver
        self.now += max(0.0, timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class NumberedTask(asyncio.Task[Any]):
    """Its hash is its number, so that the order of a set of tasks is no matter of addresses."""

    def __init__(self, *arguments: Any, number: int, **more: Any) -> None:
        self._number = number  # before the task enters the set of all tasks
        super().__init__(*arguments, **more)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """`delay` is how long bytes travel, drawn anew for each write; order is kept within a connection."""

    def __init__(self, chance: random.Random) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.chance = chance
        self.delay_seconds_max = 0.002
        self._listening: dict[int, Listener] = {}
        self._ports = 1_024
        self.pipes_made = 0
        self.pipes: set[Pipe] = set()
        self._tasks_made = 0
        self.set_task_factory(self._task)

    def _task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> NumberedTask:
        self._tasks_made += 1
        return NumberedTask(coroutine, loop=loop, number=self._tasks_made, **more)

    def time(self) -> float:
        return self._jump.now

    async def create_server(self, protocol_factory: ProtocolFactory, *_: Any, **__: Any) -> Any:
        self._ports += 1
        self._listening[self._ports] = listener = Listener(self, self._ports, protocol_factory)
        return listener

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: ProtocolFactory, host: str, port: int, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        await asyncio.sleep(self.chance.uniform(0, self.delay_seconds_max))
        listener = self._listening.get(port)
        if listener is None:
            raise ConnectionRefusedError(f"nobody listens at {host}:{port}")
        near, far = Pipe(self), Pipe(self)
        near.peer, far.peer = far, near
        server, client = listener.protocol_factory(), protocol_factory()
        listener.pipes.add(far)
        for pipe, protocol in ((far, server), (near, client)):
            pipe.protocol = protocol
            protocol.connection_made(pipe)
        return near, client


class Listener:
    """What `create_server` returns."""

    def __init__(self, loop: VirtualLoop, port: int, protocol_factory: ProtocolFactory) -> None:
        self._loop, self.port, self.protocol_factory = loop, port, protocol_factory
        self.pipes: set[Pipe] = set()

    @property
    def sockets(self) -> list["Listener"]:
        return [self]

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def close(self) -> None:
        self._loop._listening.pop(self.port, None)

    def die(self) -> None:
        """As when the process has gone: nothing listens, and what was open breaks."""
        self.close()
        for pipe in self.pipes:
            pipe.break_off()


class Pipe(asyncio.Transport):
    """One end of a connection in memory."""

    peer: "Pipe"
    protocol: Any

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._closing = False
        self._lost = False
        loop.pipes_made += 1
        self.number = loop.pipes_made
        loop.pipes.add(self)
        self._arrives = 0.0  # when what was written last does

    def __hash__(self) -> int:
        return self.number

    def write(self, data: Any) -> None:
        if not self._closing:
            self._travel(self.peer._receive, bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """What was written before still arrives."""
        if not self._closing:
            self._closing = True
            self._travel(self.peer._lose)
            self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def break_off(self) -> None:
        """Both ends lose the connection now, with everything that is still on its way."""
        for end in (self, self.peer):
            end._closing = True
            self._loop.call_soon(end._lose)

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever buffered."""

    def pause_reading(self) -> None:
        raise AssertionError("no protocol of ours pauses its reading; one that does needs a wire that can")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def _travel(self, arrive: Callable[..., None], *data: bytes) -> None:
        loop = self._loop
        self._arrives = max(self._arrives, loop.time() + loop.chance.uniform(0, loop.delay_seconds_max))
        loop.call_at(self._arrives, arrive, *data)

    def _receive(self, data: bytes) -> None:
        if self._closing:
            return
        if isinstance(self.protocol, asyncio.BufferedProtocol):
            while data:
                room = memoryview(self.protocol.get_buffer(len(data)))
                taken = min(len(room), len(data))
                room[:taken] = data[:taken]
                self.protocol.buffer_updated(taken)
                data = data[taken:]
        else:
            self.protocol.data_received(data)

    def _lose(self) -> None:
        if not self._lost:
            self._closing = self._lost = True
            self._loop.pipes.discard(self)
            self.protocol.connection_lost(None)
