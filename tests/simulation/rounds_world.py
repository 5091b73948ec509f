"""Many effects, two lanes, and the real submitter (actors/chain_submitter.py) between a table and a chain in memory.

The chain is that of chain_world.py and guards nothing, loses more, forks more often, and holds much back for the last
block that may have it: much expires, and some of that nearly lands. The table forgets nothing, but may be away. Both
take their time for each answer, so that rounds of a lane overlap in whatever way the seed says. What they see and must
never be is noted in `wrong`. A submitter that dies is followed by another.
"""

import asyncio
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from actors.chain_submitter import ChainSubmitter, Lane, SubmitterOptions
from engine.journal import Fenced
from engine.submission import (
    FREE,
    UNDER_WAY,
    ChainDown,
    Change,
    Declined,
    Effect,
    Found,
    Governance,
    Holdings,
    Level,
    NotNow,
    Packed,
    State,
    Status,
    Statuses,
    Taken,
    step,
)
from engine.units import TimeUs
from tests.simulation.chain_world import VALID, Chain
from tests.support.virtual_loop import VirtualLoop

EFFECTS: Final = 24
CLAIM_MAX: Final = 3
TOGETHER: Final = 2
BLOCK_SECONDS: Final = 0.4
TROUBLE_SECONDS: Final = 20.0
SECONDS_MAX: Final = 300.0
LOST, HELD_BACK, FORKS = 0.5, 0.3, 0.2  # of what is sent, and of blocks
LANES: Final = (Lane("mint", 12, rounds_max=3), Lane("oracle", 6))
OPTIONS: Final = SubmitterOptions(lanes=LANES, claim_max=CLAIM_MAX)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


class Killed(BaseException):
    """As SIGKILL."""


class World:
    """A seed's. `rounds`: the most of each lane that were under way at once."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.random, self.loop = Random(seed), loop
        self.chain = Chain(self.random, guarded=False, held_back=HELD_BACK, lost=LOST, forks=FORKS)
        self.table = Table(self)
        self.wrong: list[str] = []
        self.members: dict[str, tuple[int, ...]] = {}  # of what was ever signed
        self.rounds: Counter[str] = Counter()
        self.deaths = self.rotations = 0

    async def pause(self) -> None:
        await asyncio.sleep(self.random.uniform(0, 0.3))

    async def play(self) -> None:
        """Until all is final, or time is up."""
        blocks = self.loop.create_task(self._blocks())
        deadline = self.loop.time() + SECONDS_MAX
        while self.table.is_open() and self.loop.time() < deadline:
            submitter = ChainSubmitter(
                self.table, Nobody(), Node(self), self.clock, self.random.random, OPTIONS, self._die
            )
            running = self.loop.create_task(submitter.run())
            done = self.loop.create_task(self.table.is_done.wait())
            await asyncio.wait([running, done], timeout=deadline - self.loop.time(), return_when=FIRST_COMPLETED)
            for task in (running, done):
                task.cancel()
            ended = await asyncio.gather(running, done, return_exceptions=True)
            if isinstance(ended[0], BaseException) and not isinstance(ended[0], asyncio.CancelledError):
                self.wrong += [repr(each) for each in _leaves(ended[0]) if not isinstance(each, Killed)]
        blocks.cancel()
        for _ in range(VALID + 10):  # what is still on its way lands, or never will
            self.chain.tick()
            self._look_at_what_was_given_up()

    def clock(self) -> TimeUs:
        return int(self.loop.time() * 1_000_000)

    def happened(self) -> Counter[int]:
        return Counter(number for signature in self.chain.effects() for number in self.members[signature])

    async def _blocks(self) -> None:
        began = self.loop.time()
        while True:
            await asyncio.sleep(BLOCK_SECONDS)
            self.chain.calm = self.loop.time() - began > TROUBLE_SECONDS
            self.chain.tick()
            self._look_at_what_was_given_up()

    def _look_at_what_was_given_up(self) -> None:
        late = {one for one in self.table.given_up if self.chain.landed(one)}
        self.wrong += [f"{one} landed after it was given up" for one in sorted(late)]
        self.table.given_up -= late

    def _die(self, _: str) -> None:
        if self.chain.chance(0.02):
            self.deaths += 1
            raise Killed


class Table:
    """What persistence/submissions.py does, without SQL."""

    outages = (OSError,)

    def __init__(self, world: World) -> None:
        self._world = world
        self.rows = {n: _effect(n) for n in range(EFFECTS)}
        self._owner = dict.fromkeys(self.rows, "")
        self._due = dict.fromkeys(self.rows, 0)
        self._claiming: set[str] = set()
        self.ways: Counter[tuple[State, State]] = Counter()  # from which state to which
        self.given_up: set[str] = set()  # signatures
        self.is_done = asyncio.Event()

    def is_open(self) -> bool:
        return any(effect.submission.state is not State.FINALIZED for effect in self.rows.values())

    def is_stored(self, raw: bytes) -> bool:
        return any(effect.raw == raw for effect in self.rows.values())

    async def adopt(self, owner: str, now_us: int, *, everything: bool) -> list[Effect]:
        await self._world.pause()
        for number, effect in self.rows.items():
            if effect.submission.state is State.BUILT:
                self._put(effect, State.QUEUED)
            elif effect.submission.state not in (*FREE, State.FINALIZED):
                self._owner[number] = owner
        return [effect for number, effect in self.rows.items() if self._owner[number] == owner]

    async def due(self, lanes: Sequence[str], now_us: int) -> list[str]:
        await self._away()
        return sorted({self.rows[number].lane for number in self._free(now_us)})

    async def claim(self, owner: str, lane: str, most: int, under_way_max: int, now_us: int) -> list[Effect]:
        """Counts, and takes a moment later, as a statement does: two at once would both take what one may."""
        await self._away()
        if lane in self._claiming:
            self._world.wrong.append(f"two claims of {lane} at once")
        self._claiming.add(lane)
        try:
            return await self._claim(owner, lane, most, under_way_max, now_us)
        finally:
            self._claiming.discard(lane)

    async def _claim(self, owner: str, lane: str, most: int, under_way_max: int, now_us: int) -> list[Effect]:
        room = under_way_max - sum(
            effect.lane == lane and effect.submission.state in UNDER_WAY for effect in self.rows.values()
        )
        await self._world.pause()
        free = [number for number in self._free(now_us) if self.rows[number].lane == lane]
        taken = sorted(free, key=lambda number: (self._due[number], number))[: max(0, min(most, room))]
        for number in taken:
            effect = self.rows[number]
            self.rows[number] = replace(effect, submission=step(effect.submission, Taken()))
            self._owner[number] = owner
        return [self.rows[number] for number in taken]

    async def record(self, owner: str, changes: Sequence[Change], now_us: int) -> None:
        await self._away()
        for change in changes:
            held, told = self.rows[change.effect.number].submission, change.effect.submission
            if self._owner[change.effect.number] != owner or (held.state, held.attempt) != (told.state, told.attempt):
                raise Fenced(f"{change.effect.number} is {held.state}, not {told.state}")
        for change in changes:
            number = change.effect.number
            before = self.rows[number]
            self.rows[number] = replace(before, submission=change.after, raw=change.raw or before.raw)
            self._due[number] = change.due_us
            self.ways[before.submission.state, change.after.state] += 1
            if change.after.state is State.EXPIRED:
                self.given_up.add(before.submission.signature)
            if change.after.state in (*FREE, State.FINALIZED):
                self._owner[number] = ""
        if not self.is_open():
            self.is_done.set()
        await self._away()  # it is written, and nobody was told

    async def renew(self, owner: str, now_us: int) -> None:
        """Leases are for several machines."""

    async def say(self, part: str, said: dict[str, Any], now_us: int) -> None:
        """Nobody listens."""

    async def accounts(self, user_ids: Collection[int]) -> dict[int, str]:
        return {}

    async def open_account(self, user_id: int, holdings: Holdings, now_us: int) -> None:
        raise AssertionError("these effects are nobody's")

    async def depths(self) -> dict[str, dict[str, int]]:
        return {}

    async def is_suspended(self) -> bool:
        return False

    async def heirs(self) -> list[str]:
        return []

    async def rotated(self, role: str, before: str, after: str) -> None:
        """Keys are no matter here but for when they change."""

    async def _away(self) -> None:
        await self._world.pause()
        if self._world.chain.chance(0.01):
            raise OSError("the database is away")

    def _free(self, now_us: int) -> Iterable[int]:
        return [n for n, one in self.rows.items() if one.submission.state in FREE and self._due[n] <= now_us]

    def _put(self, effect: Effect, state: State) -> None:
        self.rows[effect.number] = replace(effect, submission=replace(effect.submission, state=state))
        self._owner[effect.number] = ""


def _effect(number: int) -> Effect:
    return Effect(number=number, kind="k", key=f"k:{number}", lane=LANES[number % 2].name, payload={})


class Node:
    """What chain/client/writer.py does, of one process: its keys change only while it has nothing under way."""

    def __init__(self, world: World) -> None:
        self._world, self._chain = world, world.chain
        self._rounds: Counter[str] = Counter()
        self._signed = 0
        self._due_at = world.loop.time() + world.random.uniform(0.5, 8)
        self._rotated = False

    async def prepare(self, heirs: Collection[str]) -> None:
        await self._world.pause()

    async def tend(self) -> None:
        await self._world.pause()

    def rotation_is_due(self) -> bool:
        return not self._rotated and self._world.loop.time() >= self._due_at

    async def rotate(self, told: Callable[..., Any], *, begun_only: bool = False) -> None:
        if begun_only:
            return
        open_ = [one for one in self._world.table.rows.values() if one.submission.state not in (*FREE, State.FINALIZED)]
        if open_ or any(self._rounds.values()):
            self._world.wrong.append(f"keys change while {len(open_)} effects are under way")
        await self._world.pause()
        self._rotated = True
        self._world.rotations += 1

    async def governance(self) -> Governance:
        return Governance("ours", "", ours=True, paused=self._chain.chance(0.1))

    async def lamports(self) -> dict[str, int]:
        return {}

    def endpoints(self) -> Sequence[Any]:
        return []

    def holdings(self, address: str) -> Holdings:
        raise AssertionError("these effects are nobody's")

    async def plan(self, effects: Sequence[Effect]) -> tuple[dict[int, Found], list[Packed], list[Declined]]:
        lane = effects[0].lane
        self._rounds[lane] += 1
        self._world.rounds[lane] = max(self._world.rounds[lane], self._rounds[lane])
        try:
            return await self._plan(effects)
        finally:
            self._rounds[lane] -= 1

    async def _plan(self, effects: Sequence[Effect]) -> tuple[dict[int, Found], list[Packed], list[Declined]]:
        chain, found = self._chain, Found(self._chain.height, self._chain.height_final)
        await self._away()
        there, packed, declined = self._world.happened(), [], []
        left = [effect.number for effect in effects if effect.number not in there]
        await self._away()
        for start in range(0, len(left), TOGETHER):
            numbers = tuple(left[start : start + TOGETHER])
            if chain.chance(0.1):
                declined.append(Declined(numbers, NotNow("the vault is not there yet")))
                continue
            signature = f"signature {len(self._world.members)}"
            self._world.members[signature] = numbers
            last_height = chain.height + self._world.random.randrange(1, VALID)
            packed.append(Packed(numbers, signature.encode() + b" %d" % last_height, signature, last_height))
        return {one.number: found for one in effects if one.number in there}, packed, declined

    async def look(self, effects: Sequence[Effect]) -> tuple[set[int], Found]:
        found = Found(self._chain.height, self._chain.height_final)
        await self._away()
        return {one.number for one in effects} & self._world.happened().keys(), found

    async def send(self, raws: Sequence[bytes]) -> None:
        await self._world.pause()
        lost = False
        for raw in raws:
            if not self._world.table.is_stored(raw):
                self._world.wrong.append(f"{raw!r} is sent and was not stored")
            signature, _, last_height = raw.decode().rpartition(" ")
            try:
                self._chain.send(signature, int(last_height))
            except OSError:
                lost = True
        await self._world.pause()
        if lost:
            raise ChainDown("no answer")

    async def statuses(self, sent: Sequence[tuple[str, bytes]]) -> Statuses:
        height_final = self._chain.height_final
        await self._away()
        return Statuses(height_final, height_final, [self._status(signature) for signature, _ in sent])

    def _status(self, signature: str) -> Status | None:
        landed = self._chain.landed(signature)
        if landed is None:
            return None
        height, error = landed
        final, confirmed = height <= self._chain.height_final, height < self._chain.height
        return Status(Level.FINALIZED if final else Level.CONFIRMED if confirmed else Level.PROCESSED, height, error)

    async def _away(self) -> None:
        await self._world.pause()
        if self._chain.chance(0.05):
            raise ChainDown("no answer")


class Nobody:
    async def of(self, user_id: int) -> str:
        raise AssertionError("these effects are nobody's")


def play(seed: int, at_loop: Callable[[VirtualLoop], None]) -> World:
    """`at_loop`: is told of the loop whose time is the world's."""
    loop = VirtualLoop(Random(seed))
    at_loop(loop)
    world = World(seed, loop)
    try:
        loop.run_until_complete(world.play())
    finally:
        loop.close()
    return world
