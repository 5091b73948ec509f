"""The actor that makes effects happen on the chain, each once; engine/submission.py says what becomes of each.

A lane is a queue of its own with a bound on what is under way, so that slow withdrawals hold up no mints. One task
looks which lanes have something due. Each lane has tasks that take turns to claim, and then look, sign and send beside
one another, each what it has claimed. One task follows what was sent, sends it again, and tells its end. Memory holds
nothing that the table does not: whoever comes after this process takes up its rows, and it can write no more.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from actors import metrics
from actors.chain_ports import Addresses, Chain, Submissions
from engine.journal import Fenced
from engine.submission import (
    Absent,
    ChainDown,
    Change,
    Declined,
    Effect,
    Found,
    HandedOver,
    Learnt,
    Missing,
    NotNow,
    Packed,
    Seen,
    Signed,
    State,
    Submission,
    delay_us,
    others,
    step,
)
from engine.units import TimeUs

PART: Final = "submitter"
STATUSES_MAX: Final = 256  # what one request may ask for
SENDINGS_MAX: Final = 4  # rounds whose transactions are being handed over, of all lanes
BACKOFF_SECONDS_MAX: Final = 10.0
_ENDS: Final = (State.FINALIZED, State.PARKED)

Moved = Callable[[str, int, str, str, bool], None]  # kind, number, state, signature, whether it is the last one

log = structlog.get_logger()


class Lane(Struct, frozen=True):
    """under_way_max: effects that are built, signed or sent at once. pausable: stops while the chain is paused.

    careful: stops while books and chain differ. rounds_max: rounds at once; one where the next looks at what the one
    before has done.
    """

    name: str
    under_way_max: int
    rounds_max: int = 1
    pausable: bool = True
    careful: bool = False


LANES: Final = (
    Lane("register", 1_024),
    Lane("mint", 4_096, rounds_max=3),
    Lane("burn", 2_048),
    Lane("settle", 256, rounds_max=2),
    Lane("withdraw", 128, careful=True),
    Lane("oracle", 32),
    Lane("govern", 8, pausable=False),
)


class SubmitterOptions(Struct, frozen=True, kw_only=True):
    lanes: tuple[Lane, ...] = LANES
    claim_max: int = 256
    idle_seconds: float = 0.5  # between two looks at what is due
    follow_seconds: float = 0.4
    confirmed_seconds: float = 5.0  # between two looks at what waits to be final, before its slot can be
    resend_seconds: float = 2.0
    say_seconds: float = 1.0
    renew_seconds: float = 60.0
    tend_seconds: float = 2.0
    following_max: int = 20_000  # transactions that were sent and are not final


class Flight(Struct):
    """A transaction that was signed, or (signature "") an effect that was found, until it is final."""

    signature: str
    raw: bytes
    members: list[Effect]
    slot: int = 0  # in which it was seen
    handed_over: bool = False  # which is written down if the next look does not find it
    sent_at: float = 0.0
    looked_at: float = 0.0

    @property
    def name(self) -> str:
        return self.signature or f"found {self.members[0].number}"

    @property
    def submission(self) -> Submission:
        return self.members[0].submission


class ChainSubmitter:
    """`crash`: reached points, for tests that make it die there."""

    def __init__(
        self,
        submissions: Submissions,
        addresses: Addresses,
        chain: Chain,
        clock: Callable[[], TimeUs],
        jitter: Callable[[], float],
        options: SubmitterOptions | None = None,
        crash: Callable[[str], None] | None = None,
        moved: Moved | None = None,
    ) -> None:
        self._submissions, self._addresses, self._chain = submissions, addresses, chain
        self._clock, self._jitter = clock, jitter
        self._options = options or SubmitterOptions()
        self._crash, self._moved = crash or (lambda _: None), moved
        self._outages: tuple[type[Exception], ...] = (ChainDown, *submissions.outages)
        self._owner = ""
        self._flights: dict[str, Flight] = {}  # by name
        self._state, self._detail = "starting", ""
        self._paused = self._suspended = False
        self._slot_final = self._rounds = 0
        self._due = {lane.name: asyncio.Event() for lane in self._options.lanes}
        self._turns = {lane.name: asyncio.Lock() for lane in self._options.lanes}
        self._sendings = asyncio.Semaphore(SENDINGS_MAX)
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()

    def __repr__(self) -> str:
        return "ChainSubmitter()"

    # --- life ---

    async def run(self) -> None:
        """Until drained. An outage of the table begins it anew, because nobody knows which writes were made.

        Ends with Fenced when another submitter has taken over.
        """
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._live()
                failures = 0
            except* self._outages as group:
                failures = 1 if self._state == "serving" else failures + 1
                self._state, self._detail = "waiting", repr(group.exceptions[0])[:200]
                metrics.CHAIN_FAULTS.labels(PART).inc()
                log.warning("chain.not_ready", why=self._detail, failures=failures)
                await self._rest(min(0.25 * 2 ** min(failures, 10), BACKOFF_SECONDS_MAX))

    async def _live(self) -> None:
        self._flights, self._rounds = {}, 0
        self._owner = secrets.token_hex(8)  # one that may have writes on their way is nobody
        await self._say()
        for effect in await self._submissions.adopt(self._owner, self._clock(), everything=True):
            self._board(effect)
        await self._chain.rotate(self._rotated, begun_only=True)  # before our keys are compared with the chain's
        await self._chain.prepare(await self._submissions.heirs())
        await self._chain.tend()
        self._state, self._detail = "serving", ""
        self._sendings = asyncio.Semaphore(SENDINGS_MAX)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._every(self._options.say_seconds, self._say))
            tasks.create_task(self._every(self._options.renew_seconds, self._renew))
            tasks.create_task(self._every(self._options.follow_seconds, self._follow))
            tasks.create_task(self._every(self._options.say_seconds, self._rotate))
            tasks.create_task(self._every(self._options.tend_seconds, self._chain.tend))
            tasks.create_task(self._every(self._options.idle_seconds, self._look_out))
            for lane in self._options.lanes:
                for _ in range(lane.rounds_max):
                    tasks.create_task(self._every(self._options.idle_seconds, self._serve, lane))

    async def drain(self) -> None:
        """Take nothing more; what is under way is in the table, and goes on with the next start."""
        self._stopping.set()
        for due in self._due.values():
            due.set()

    def status(self) -> dict[str, Any]:
        return {"state": self._state, "detail": self._detail, "in_flight": len(self._flights), "paused": self._paused}

    async def _every(self, seconds: float, act: Callable[..., Any], *arguments: Any) -> None:
        """Act, again at once as long as it says that there is more, until drained."""
        failures = 0
        while not self._stopping.is_set():
            try:
                more = await act(*arguments)
                failures = 0
            except ChainDown as error:
                more, failures = False, failures + 1
                metrics.CHAIN_FAULTS.labels(PART).inc()
                log.warning("chain.outage", doing=act.__name__, why=repr(error)[:300], failures=failures)
            if not more:
                await self._rest(min(seconds * 2 ** min(failures, 10), max(seconds, BACKOFF_SECONDS_MAX)))

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # --- a lane ---

    async def _look_out(self) -> bool:
        """Wake the lanes that have something due."""
        for name in await self._submissions.due(list(self._due), self._clock()):
            self._due[name].set()
        return False

    async def _serve(self, lane: Lane) -> bool:
        """One round; whether there may be more to do at once."""
        with contextlib.ExitStack() as under_way:
            async with self._turns[lane.name]:
                await self._due[lane.name].wait()
                if not self._is_open(lane):
                    return False
                under_way.enter_context(self._counted())
                claimed = await self._claim(lane)
            return bool(claimed) and await self._round(claimed)

    def _is_open(self, lane: Lane) -> bool:
        if (self._paused and lane.pausable) or (self._suspended and lane.careful):
            return False
        if len(self._flights) >= self._options.following_max or self._chain.rotation_is_due():
            return False
        return not self._stopping.is_set()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """A round, while which keys stay as they are."""
        self._rounds += 1
        try:
            yield
        finally:
            self._rounds -= 1

    async def _claim(self, lane: Lane) -> list[Effect]:
        claim_max = self._options.claim_max
        claimed = await self._submissions.claim(self._owner, lane.name, claim_max, lane.under_way_max, self._clock())
        if len(claimed) < claim_max:
            self._due[lane.name].clear()
        return claimed

    async def _round(self, claimed: Sequence[Effect]) -> bool:
        self._crash("claimed")
        try:
            effects = await self._with_accounts(claimed)
            found, packed, declined = await self._chain.plan(effects)
        except ChainDown as error:
            await self._record(self._changes(claimed, NotNow(str(error) or "the chain is away")))
            raise
        await self._settle(effects, found, packed, declined)
        return len(claimed) == self._options.claim_max and bool(packed or found)

    async def _with_accounts(self, effects: Sequence[Effect]) -> list[Effect]:
        """Who has no address on the chain gets one: it is the first thing of his that the chain hears of."""
        further = {effect.number: others(effect) for effect in effects}
        owners = {effect.user_id for effect in effects if effect.user_id and not effect.account}
        people = owners.union(*further.values())
        accounts = await self._submissions.accounts(people)
        for user_id in sorted(people - accounts.keys()):
            holdings = self._chain.holdings(await self._addresses.of(user_id))
            await self._submissions.open_account(user_id, holdings, self._clock())
            accounts[user_id] = holdings.account
        return [
            replace(
                effect,
                account=effect.account or accounts.get(effect.user_id, ""),
                accounts={user_id: accounts[user_id] for user_id in further[effect.number]},
            )
            for effect in effects
        ]

    async def _settle(
        self, effects: Sequence[Effect], found: dict[int, Found], packed: Sequence[Packed], declined: Sequence[Declined]
    ) -> None:
        """Write down what was found out, then send what was signed: never the other way round."""
        by_number = {effect.number: effect for effect in effects}
        changes = [change for one in declined for change in self._changes([by_number[n] for n in one.numbers], one.why)]
        changes += [self._change(by_number[number], learnt) for number, learnt in found.items()]
        flights = []
        for each in packed:
            learnt = Signed(each.signature, each.last_height)
            signed = [self._change(by_number[number], learnt, raw=each.raw) for number in each.numbers]
            changes += signed
            members = [_after(change) for change in signed]
            flights.append(Flight(each.signature, each.raw, members, sent_at=monotonic()))
        self._crash("signed")
        await self._record(changes)
        self._crash("recorded")
        for change in changes:
            if change.after.state is State.CONFIRMED:
                self._board(_after(change))
        for flight in flights:
            self._flights[flight.name] = flight
        if flights:
            await self._sendings.acquire()
            assert self._tasks is not None, "lanes are served within it"
            self._tasks.create_task(self._hand_over(flights))

    def _board(self, effect: Effect) -> None:
        """Follow it from here on, together with the others of its transaction."""
        signature = effect.submission.signature
        known = self._flights.get(signature) if signature else None
        if known is not None:
            known.members.append(effect)
        else:
            flight = Flight(signature, effect.raw, [effect])
            self._flights[flight.name] = flight

    # --- what was sent ---

    async def _hand_over(self, flights: Sequence[Flight]) -> None:
        """While the lane goes on with its next round."""
        try:
            await self._send(flights)
        finally:
            self._sendings.release()

    async def _send(self, flights: Sequence[Flight]) -> None:
        """Hand them over, as often as it takes; who does not answer may have taken them."""
        if not flights:
            return
        for flight in flights:
            flight.sent_at = monotonic()
        metrics.CHAIN_SENT.inc(len(flights))
        with contextlib.suppress(ChainDown):  # their statuses tell
            await self._chain.send([flight.raw for flight in flights])
        self._crash("sent")
        for flight in flights:
            flight.handed_over = True

    async def _follow(self) -> bool:
        """Ask for what is due, and send again what no block has."""
        now = monotonic()
        due = [flight for flight in self._flights.values() if self._is_due(flight, now)]
        for flight in due:
            flight.looked_at = now
        sent = [flight for flight in due if flight.signature]
        for start in range(0, max(len(sent), 1 if self._flights else 0), STATUSES_MAX):
            await self._ask(sent[start : start + STATUSES_MAX])
        await self._look([flight for flight in due if not flight.signature])
        return False

    def _is_due(self, flight: Flight, now: float) -> bool:
        """What is confirmed is looked at when its slot is final, and now and then before."""
        if flight.submission.state is not State.CONFIRMED:
            return True
        final = bool(flight.signature) and flight.slot <= self._slot_final
        return final or now - flight.looked_at >= self._options.confirmed_seconds

    async def _ask(self, flights: Sequence[Flight]) -> None:
        statuses = await self._chain.statuses([(flight.signature, flight.raw) for flight in flights])
        self._slot_final = statuses.slot_final
        news: list[tuple[Flight, Learnt, int]] = []
        for flight, status in zip(flights, statuses.found, strict=True):
            flight.slot = status.slot if status is not None else 0
            if status is None and flight.handed_over and flight.submission.state is State.SIGNED:
                news.append((flight, HandedOver(), 0))
            elif status is None:
                news.append((flight, Absent(statuses.height_final), 0))
            else:
                seen = Seen(status.level, status.error, status.permanent, len(flight.members))
                news.append((flight, seen, status.slot))
        await self._learn(news)
        late = monotonic() - self._options.resend_seconds
        absent = [
            flight
            for flight, status in zip(flights, statuses.found, strict=True)
            if status is None and flight.name in self._flights and flight.sent_at <= late
        ]
        await self._send(absent)

    async def _look(self, flights: Sequence[Flight]) -> None:
        """At effects that were found: are they there still?"""
        if not flights:
            return
        there, heights = await self._chain.look([flight.members[0] for flight in flights])
        await self._learn([(one, heights if one.members[0].number in there else Missing(), 0) for one in flights])

    async def _learn(self, news: Iterable[tuple[Flight, Learnt, int]]) -> None:
        """Write down what changes, for all members of a transaction at once; the rest stays as it is."""
        changed: list[tuple[Flight, list[Change]]] = []
        for flight, learnt, slot in news:
            if self._flights.get(flight.name) is not flight or step(flight.submission, learnt) is flight.submission:
                continue
            changed.append((flight, [self._change(member, learnt, slot=slot) for member in flight.members]))
        if changed:
            self._crash("learnt")
        await self._record([change for _, changes in changed for change in changes])
        for flight, changes in changed:
            flight.members = [_after(change) for change in changes]
            if flight.submission.state not in (State.SIGNED, State.SENT, State.CONFIRMED):
                del self._flights[flight.name]

    # --- keys ---

    async def _rotate(self) -> bool:
        """Once all that was signed with the old keys is final: lanes take nothing while a rotation is due."""
        if self._chain.rotation_is_due() and not self._flights and not self._rounds:
            await self._chain.rotate(self._rotated)
            await self._chain.prepare(await self._submissions.heirs())  # what hangs on a key is made for the new one
        return False

    async def _rotated(self, role: str, before: str, after: str) -> None:
        await self._submissions.rotated(role, before, after)
        log.info("chain.key_rotated", role=role, before=before, after=after)

    # --- writing down ---

    def _changes(self, effects: Iterable[Effect], learnt: Learnt) -> list[Change]:
        return [self._change(effect, learnt) for effect in effects]

    def _change(self, effect: Effect, learnt: Learnt, *, raw: bytes = b"", slot: int = 0) -> Change:
        after = step(effect.submission, learnt)
        due_us = self._clock() + delay_us(after, self._jitter())
        return Change(effect, after, raw, due_us, slot)

    async def _record(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        try:
            await self._submissions.record(self._owner, changes, self._clock())
        except Fenced:
            self._state = "fenced"
            raise
        for change in changes:
            if change.after.state is not change.effect.submission.state:
                metrics.CHAIN_CHANGES.labels(change.effect.lane, change.after.state).inc()
                if self._moved is not None:
                    effect, after = change.effect, change.after
                    self._moved(effect.kind, effect.number, after.state, after.signature, after.state in _ENDS)
            if change.after.state is State.PARKED:
                effect = change.effect
                log.error(
                    "chain.parked", number=effect.number, kind=effect.kind, key=effect.key, why=change.after.reason
                )

    # --- telling ---

    async def _renew(self) -> bool:
        await self._submissions.renew(self._owner, self._clock())
        return False

    async def _say(self) -> bool:
        """How it is, for whoever asks; and whether the chain is paused, for the lanes."""
        said: dict[str, Any] = {"state": self._state, "detail": self._detail, "in_flight": len(self._flights)}
        said["endpoints"] = [{"host": one.host, "circuit": int(one.circuit)} for one in self._chain.endpoints()]
        for one in self._chain.endpoints():
            metrics.CHAIN_CIRCUIT.labels(one.host).set(int(one.circuit))
        for lane, states in (await self._submissions.depths()).items():
            for state, count in states.items():
                metrics.CHAIN_QUEUE.labels(lane, state).set(count)
        if self._state == "serving":
            try:
                governance = await self._chain.governance()
                self._paused, said["governance"] = governance.paused, msgspec.to_builtins(governance)
                said["lamports"] = await self._chain.lamports()
            except ChainDown as error:
                said["detail"] = str(error)[:200]
        self._suspended = await self._submissions.is_suspended()
        said["paused"] = self._paused
        await self._submissions.say(PART, said, self._clock())
        return False


def _after(change: Change) -> Effect:
    return replace(change.effect, submission=change.after, raw=change.raw or change.effect.raw)
