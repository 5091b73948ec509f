"""Keeps what the exchange stands on while it runs: private servers, the claim on the database, the supervisor.

What ends by itself is started again, with back-off and so many times in a while; then it is given up, and whoever owns
the task stops the exchange in order. Markets, followers and gateways need none of this: they come back by themselves
once what they stand on is there again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, Protocol

import structlog

LOOK_SECONDS: Final = 0.25
RESTARTS_MAX: Final = 8
RESTARTS_SECONDS: Final = 300.0
BACKOFF_SECONDS_MAX: Final = 10.0
CLAIM_LOOK_SECONDS: Final = 1.0
CLAIM_BACKOFF_SECONDS_MAX: Final = 2.0
CLAIM_SECONDS_MAX: Final = 15.0  # our own lost session may hold it until the server notices that it is gone
SUPERVISOR_LOOK_SECONDS: Final = 2.0
ONLOOKERS_LOOK_SECONDS: Final = 30.0
ABSENT_LOOK_SECONDS: Final = 15.0  # longer than any actor takes to come back

log = structlog.get_logger()
Say = Callable[[str], None]


class GivenUp(Exception):
    """It cannot be kept; says what is wrong and what to do."""


class Server(Protocol):
    """A private server. `restart` blocks; what it raises is a failed attempt."""

    name: str

    @property
    def running(self) -> bool: ...
    def restart(self) -> str: ...


class Claim(Protocol):
    """The right to be the database's only exchange. `take`: False when another one has it."""

    async def take(self) -> bool: ...
    async def is_held(self) -> bool: ...


async def keep_running(server: Server, say: Say) -> None:
    """Start the server again whenever it has ended, until cancelled. Raises GivenUp.

    When cancelled in the middle of a start, it ends with that start, so that the server can be stopped.
    """
    attempts: deque[float] = deque(maxlen=RESTARTS_MAX)
    failures = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if server.running:
            continue
        ended = monotonic()
        if len(attempts) == RESTARTS_MAX and ended - attempts[0] < RESTARTS_SECONDS:
            raise GivenUp(f"{server.name} ended {RESTARTS_MAX + 1} times in {ended - attempts[0]:.0f} s; see its log")
        attempts.append(ended)
        log.error("server.ended", server=server.name, attempt=len(attempts))
        say(f"{server.name} has ended by itself; starting it again")
        starting = asyncio.create_task(asyncio.to_thread(server.restart))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            raise
        except Exception as error:  # noqa: BLE001 - whatever kept it from starting: said, and tried again
            failures += 1
            log.error("server.not_started", server=server.name, why=str(error), failures=failures)
            say(f"{server.name} could not be started: {error}")
            await asyncio.sleep(min(0.5 * 2 ** min(failures, 10), BACKOFF_SECONDS_MAX))
            continue
        failures = 0
        log.warning("server.started_again", server=server.name, seconds=round(monotonic() - ended, 3))
        say(f"{server.name} runs again after {monotonic() - ended:.1f} s")


async def keep_claim(claim: Claim, say: Say) -> None:
    """Take the claim again whenever its session was lost, until cancelled. Raises GivenUp when another has taken it."""
    while True:
        await asyncio.sleep(CLAIM_LOOK_SECONDS)
        if await claim.is_held():
            continue
        log.warning("claim.lost")
        await _take_again(claim)
        log.info("claim.taken_again")
        say("the database is ours again")


async def _take_again(claim: Claim) -> None:
    failures, refused_since = 0, 0.0
    while True:
        try:
            if await claim.take():
                return
            refused_since = refused_since or monotonic()
            if monotonic() - refused_since > CLAIM_SECONDS_MAX:
                raise GivenUp("another Wattbook has taken the database meanwhile; two must not work on one")
        except GivenUp:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ails the database: everybody waits for it
            log.warning("claim.database_unreachable", why=repr(error))
        failures += 1
        await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), CLAIM_BACKOFF_SECONDS_MAX))


async def keep_supervisor(is_known: Callable[[], bool], start: Callable[[], None]) -> None:
    """Start the supervisor anew if Ray has given it up, which it does when one could not be made; until cancelled.

    Both calls block.
    """
    while True:
        await asyncio.sleep(SUPERVISOR_LOOK_SECONDS)
        if not await asyncio.to_thread(is_known):
            log.error("supervisor.gone")
            await asyncio.to_thread(start)


async def tell_of_the_absent(absent: Callable[[], Awaitable[frozenset[str]]], say: Say) -> None:
    """Say which actors have been away for two looks, and when they are back, until cancelled."""
    before, told = frozenset[str](), frozenset[str]()
    while True:
        await asyncio.sleep(ABSENT_LOOK_SECONDS)
        try:
            now = await absent()
        except Exception as error:  # noqa: BLE001 - that nothing can be told is no reason for the exchange to stop
            log.warning("absent.not_known", why=repr(error))
            continue
        if fresh := (now & before) - told:
            say(f"not up: {', '.join(sorted(fresh))}; logs/supervisor.log says more")
        if back := told - now:
            say(f"up again: {', '.join(sorted(back))}")
        before, told = now, (told | fresh) - back


async def keep_back(onlookers: Callable[[], list[int]], step_back: Callable[[int], object]) -> None:
    """Have the processors serve everybody else before these processes, and those that come in their place.

    Both calls block. A machine that does not permit it is left as it is.
    """
    while True:
        try:
            for pid in await asyncio.to_thread(onlookers):
                await asyncio.to_thread(step_back, pid)
        except OSError as error:  # one ended while it was looked at, or it belongs to somebody else
            log.info("onlookers.not_stepped_back", why=repr(error))
        await asyncio.sleep(ONLOOKERS_LOOK_SECONDS)
