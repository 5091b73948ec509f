"""Several endpoints as one: time-outs, retries with back-off and jitter, a circuit breaker each, rotation.

Rules: only reading, and sending bytes that are signed already, is repeated: both may happen twice. An answer that is a
refusal is an answer and ends the asking; after a silent, broken or lagging endpoint the next one is asked.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
import stamina
from msgspec import Struct
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Commitment, Confirmed
from solana.rpc.core import RPCException
from solders.rpc.responses import RPCError, batch_from_json

from chain.client.breaker import Breaker, Circuit
from engine.submission import ChainDown

NODE_UNHEALTHY: Final = -32005
LAGGING: Final = (NODE_UNHEALTHY, -32004, -32014, -32016)  # unhealthy, no block yet, status not yet, slot not reached
INTERNAL: Final = -32603
REQUESTS_AT_ONCE: Final = 4  # of one call that has many questions
JSON: Final = {"Content-Type": "application/json"}

T = TypeVar("T")
Ask = Callable[[AsyncClient], Awaitable[T]]
_Ask = Callable[["_Endpoint"], Awaitable[T]]


class ChainUnavailable(ChainDown):
    """No endpoint answered in time: what was asked for may have happened or not."""


class RpcSettings(Struct, frozen=True, kw_only=True):
    """timeout_seconds: of one request; total_seconds: of a call with its repeats, less than its callers wait.

    together_max: how many questions may share a request (a JSON-RPC batch); 1 for an endpoint that takes no batches.
    """

    urls: tuple[str, ...]
    commitment: str = Confirmed
    timeout_seconds: float = 5.0
    total_seconds: float = 20.0
    attempts_max: int = 5
    wait_seconds: float = 0.1
    wait_seconds_max: float = 2.0
    failures_max: int = 5
    open_seconds: float = 10.0
    together_max: int = 16


class EndpointState(Struct, frozen=True):
    """host: of the address, whose path and query may hold a key."""

    host: str
    circuit: Circuit


class _Endpoint:
    def __init__(self, url: str, settings: RpcSettings) -> None:
        self.host = urlsplit(url).netloc.rpartition("@")[2]
        self.client = AsyncClient(url, Commitment(settings.commitment), settings.timeout_seconds)
        self.url, self.batches = url, httpx.AsyncClient(timeout=settings.timeout_seconds)
        self.breaker = Breaker(settings.failures_max, settings.open_seconds)

    async def close(self) -> None:
        await self.client.close()
        await self.batches.aclose()

    def __repr__(self) -> str:
        return f"_Endpoint({self.host})"


class _Question(Struct):
    id: int
    method: str
    params: Sequence[Any]
    jsonrpc: str = "2.0"


class _Numbered(Struct):
    id: int


class _TryAgain(Exception):
    """One attempt failed such that another endpoint, or a moment later, may do better."""


class RpcPool:
    """`async with` it: closing ends its connections."""

    def __init__(self, settings: RpcSettings, clock: Callable[[], float] = time.monotonic) -> None:
        if not settings.urls:
            raise ValueError("an RPC pool needs an address")
        self._settings = settings
        self._clock = clock
        self._endpoints = [_Endpoint(url, settings) for url in settings.urls]
        self._next = 0

    def __repr__(self) -> str:
        return f"RpcPool({', '.join(each.host for each in self._endpoints)})"

    async def __aenter__(self) -> "RpcPool":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(each.close() for each in self._endpoints))

    def states(self) -> list[EndpointState]:
        now = self._clock()
        return [EndpointState(each.host, each.breaker.state(now)) for each in self._endpoints]

    async def ask(self, ask: Ask[T]) -> T:
        """What the first endpoint that can says. Raises ChainUnavailable, RPCException for an answer that refuses."""
        return await self._asked(lambda endpoint: ask(endpoint.client))

    async def ask_together(self, method: str, questions: Sequence[Sequence[Any]], parser: type[Any]) -> list[Any]:
        """An answer to each question, in their order, with RPCException for one that was refused.

        A question is the parameters of the method. At most together_max share a request. Raises ChainUnavailable.
        """
        most, at_once = self._settings.together_max, asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def part(start: int) -> list[Any]:
            asked = [_Question(number, method, each) for number, each in enumerate(questions[start : start + most])]
            async with at_once:
                return await self._asked(lambda endpoint: _together(endpoint, asked, parser))

        parts = await asyncio.gather(*(part(start) for start in range(0, len(questions), most)))
        return [answer for answers in parts for answer in answers]

    async def _asked(self, ask: "_Ask[T]") -> T:
        settings = self._settings
        retrying = stamina.AsyncRetryingCaller(
            attempts=settings.attempts_max,
            timeout=settings.total_seconds,
            wait_initial=settings.wait_seconds,
            wait_max=settings.wait_seconds_max,
            wait_jitter=settings.wait_seconds,
        )
        try:
            async with asyncio.timeout(settings.total_seconds):
                return await retrying(_TryAgain, self._attempt, ask)
        except (_TryAgain, TimeoutError) as error:
            raise ChainUnavailable(f"no answer from {self}: {error or 'time is up'}") from error

    async def _attempt(self, ask: "_Ask[T]") -> T:
        endpoint = self._choose()
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                answer = await ask(endpoint)
        except RPCException as error:
            if _code(error) not in (*LAGGING, INTERNAL):
                endpoint.breaker.succeeded()
                raise
            endpoint.breaker.failed(self._clock())
            raise _TryAgain(f"{endpoint.host}: {_code(error)}") from error
        except (SolanaRpcException, httpx.HTTPError, TimeoutError, OSError) as error:
            endpoint.breaker.failed(self._clock())
            raise _TryAgain(f"{endpoint.host}: {type(error).__name__}") from error
        except BaseException:
            endpoint.breaker.gave_up()
            raise
        endpoint.breaker.succeeded()
        return answer

    def _choose(self) -> _Endpoint:
        """The next in turn whose circuit lets it be asked."""
        now, count = self._clock(), len(self._endpoints)
        for step in range(count):
            endpoint = self._endpoints[(self._next + step) % count]
            if endpoint.breaker.may_ask(now):
                self._next = (self._next + step + 1) % count
                return endpoint
        raise _TryAgain("every circuit is open")


async def _together(endpoint: _Endpoint, asked: list[_Question], parser: type[Any]) -> list[Any]:
    """One request with all of them. Raises RPCException for an endpoint that lags, OSError for one that errs.

    Written here, because solders takes some hundred microseconds for the JSON of a transaction.
    """
    alone = len(asked) == 1  # not every endpoint takes batches
    body = msgspec.json.encode(asked[0] if alone else asked)
    answer = (await endpoint.batches.post(endpoint.url, content=body, headers=JSON)).raise_for_status().text
    raw = f"[{answer}]" if alone else answer
    try:
        order = [each.id for each in msgspec.json.decode(raw, type=list[_Numbered])]
    except msgspec.DecodeError as error:
        raise OSError(f"no answer to what was asked: {raw[:100]}") from error
    if sorted(order) != list(range(len(asked))):
        raise OSError("other questions were answered than asked")
    answers = dict(zip(order, batch_from_json(raw, [parser] * len(asked)), strict=True))
    refusals = {
        number: RPCException(each)
        for number, each in answers.items()
        if isinstance(each, RPCError.__args__)  # type: ignore[attr-defined]
    }
    if behind := next((each for each in refusals.values() if _code(each) in (*LAGGING, INTERNAL)), None):
        raise behind
    return [refusals.get(number, answers[number]) for number in range(len(asked))]


def _code(error: RPCException) -> Any:
    """The JSON-RPC code of the answer; solders has a type for each, and not every type keeps its code."""
    found = error.args[0] if error.args else None
    code = getattr(found, "code", None)
    if code is not None:
        return code
    return {"NodeUnhealthyMessage": NODE_UNHEALTHY, "InternalErrorMessage": INTERNAL}.get(type(found).__name__)
