"""A fresh process in the place of one that serves, without a refusal in between (docs/decisions/0049).

Ray knows an actor by one of two names, which alternate: while its process is replaced there are both. A market's heir
stands by before it takes over; a gateway's shares the port. Which of the two counts can be asked of them at any time,
so a supervisor that dies in between needs no memory: `settled` finds out and ends the other one. Where a market shares
a process, now or next, its stored place says which of the two counts (docs/decisions/0053).
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec import Struct

from actors import handles
from actors.clock import clock_us
from actors.handles import Unreachable
from actors.succession import LEFT, STANDING_BY
from engine.units import TimeUs

if TYPE_CHECKING:
    from actors.watched import Watching

WARM_SECONDS_MAX: Final = 60.0
HAND_OVER_SECONDS_MAX: Final = 5.0
TAKE_OVER_SECONDS_MAX: Final = 30.0
LINGER_SECONDS: Final = 2.0  # whoever has not heard of the move yet still asks the one that left
LOOK_SECONDS: Final = 0.02
DRAIN_SECONDS_MAX: Final = 6.0
WARMING, SWITCHING, DONE, FAILED, REFUSED = "warming", "switching", "done", "failed", "refused"

log = structlog.get_logger()


class Replacement(Struct):
    """How the last one of an actor went. sequence: a market's last one in its old process.

    seconds_without: from the moment when the old process takes no more until the new one serves.
    """

    actor: str
    state: str
    began_us: TimeUs
    detail: str = ""
    ended_us: TimeUs | None = None
    from_pid: int = 0
    to_pid: int = 0
    sequence: int = 0
    seconds_without: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.state in (DONE, FAILED, REFUSED)

    def end(self, state: str, detail: str = "") -> None:
        self.state, self.detail, self.ended_us = state, detail or self.detail, clock_us()


Swap = Callable[[], Awaitable[None]]  # from its return on the heir is the one that counts; may raise NotReplaced


class NotReplaced(Exception):
    """The old process serves on; says why."""


def other_name(called: str, name: str) -> str:
    """The one of an actor's two names that its process does not have."""
    return f"{name}-heir" if called == name else name


async def settled(name: str) -> str:
    """Which of its two names the actor goes by; a second process, which a replacement left behind, is ended."""
    found: list[tuple[int, str, Any]] = []
    for called in (name, other_name(name, name)):
        try:
            actor = await asyncio.to_thread(handles.find, called)
        except Unreachable:
            continue
        found.append((await _rank(actor), called, actor))
    if not found:
        return name
    found.sort(key=lambda one: -one[0])
    for _, called, actor in found[1:]:
        log.warning("supervisor.left_behind", actor=name, called=called)
        handles.end(actor)
    return found[0][1]


async def _rank(actor: Any) -> int:
    """An heir counts for more than one that has left or cannot be asked, and for less than one that serves."""
    try:
        state = (await handles.call(actor, "status", seconds=handles.LOOK_SECONDS_MAX))["state"]
    except Unreachable:
        return 1
    return {LEFT: 0, STANDING_BY: 2}.get(state, 3)


async def replace_market(
    old: "Watching", heir: "Watching", swap: Swap, told: Replacement, *, by_snapshot: bool
) -> None:
    """Until `swap` nobody has noticed. From there on it goes forward only: whatever fails, the heir takes over.

    Raises NotReplaced, Unreachable.
    """
    await _until(heir, lambda: heir.status["state"] == STANDING_BY, WARM_SECONDS_MAX)
    await old.look()
    reached = old.status.get("sequence", 0)
    await _until(heir, lambda: heir.status["sequence"] >= reached or bool(heir.status["detail"]), WARM_SECONDS_MAX)
    if heir.status["detail"] and not by_snapshot:
        raise NotReplaced(f"the new process cannot replay the journal: {heir.status['detail']}")
    await swap()
    told.state, began = SWITCHING, monotonic()
    try:
        await _hand_over(old, heir, told, by_snapshot=by_snapshot)
        told.seconds_without, told.to_pid = round(monotonic() - began, 3), heir.status["pid"]
        await asyncio.sleep(LINGER_SECONDS)
        await retire(old)
    except BaseException:
        await old.end()
        raise
    finally:
        heir.is_heir = False


async def _hand_over(old: "Watching", heir: "Watching", told: Replacement, *, by_snapshot: bool) -> None:
    try:
        told.sequence = await old.ask("hand_over", heir.address, by_snapshot, seconds=HAND_OVER_SECONDS_MAX)
    except Unreachable as error:
        told.detail = f"the old process did not finish ({error}); it was ended"
        await old.end()
    heir.is_heir = False  # from here on the supervisor's own look has it take over as well
    await _until(heir, lambda: heir.status["state"] == "serving", TAKE_OVER_SECONDS_MAX)


async def replace_gateway(old: "Watching", heir: "Watching", swap: Swap, told: Replacement) -> None:
    """Both listen on the port for a moment; then the old one finishes what it has. Raises NotReplaced, Unreachable."""
    await _until(heir, lambda: heir.status["state"] == "serving", WARM_SECONDS_MAX)
    told.state, told.to_pid, heir.is_heir = SWITCHING, heir.status["pid"], False
    await swap()
    await retire(old)


async def retire(old: "Watching") -> None:
    """Let it finish, and end its process for good."""
    try:
        await old.ask("drain", seconds=DRAIN_SECONDS_MAX)
    except Unreachable as error:
        log.warning("supervisor.not_drained", actor=old.name, why=str(error))
    await old.end()


async def _until(watched: "Watching", holds: Callable[[], bool], seconds_max: float) -> None:
    deadline = monotonic() + seconds_max
    while True:
        await watched.look()
        if watched.is_up and holds():
            return
        if monotonic() > deadline:
            raise NotReplaced(f"the new process is {watched.status.get('state', 'away')} after {seconds_max:g} s")
        await asyncio.sleep(LOOK_SECONDS)
