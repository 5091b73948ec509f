"""One history: a market's shell, its follower, gateways and traders in one process, in a world that fails by seed.

While it storms, processes die at any moment, also at the named crash points; owners sleep through their succession,
connections break, snapshots rot. Then it calms down, everybody finishes, and what came of it is judged.
"""

import asyncio
import contextlib
import gc
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, cast
from unittest import mock

import structlog
from msgspec import Struct

import actors.dataplane
import actors.links
import actors.market
import actors.persistence
import actors.recovery
import engine.book.call
from actors.audit import Acknowledged, audit
from actors.crash_points import AUCTION_POINTS, FOLLOWER_POINTS, MARKET_POINTS, Reached
from actors.dataplane import Secret
from actors.links import ANSWER_SECONDS_MAX, Links, Place
from actors.market import Market, MarketOptions
from actors.persistence import Follower, FollowerOptions
from actors.replacing import HAND_OVER_SECONDS_MAX, LINGER_SECONDS
from actors.succession import STANDING_BY, Heir
from engine.auction.epoch import Outcome as AuctionOutcome
from engine.market import MarketSpec, Mechanism
from engine.messages import AmendOrder, CancelAll, CancelOrder, Command, PlaceOrder, Side, TimeInForce
from engine.units import SECOND_US, TimeUs
from engine.views import Answer, Applied, Failed, Fault, OrderAnswer, Refusal
from tests.simulation.world import Tables, Weather, World
from tests.support import builders
from tests.support.virtual_loop import START_SECONDS, VirtualLoop

CURRENCY: Final = "THB"
ENERGY: Final = f"energy:{builders.A}"
PEOPLE: Final = (11, 12, 13, 14)
OPERATIONS: Final = 14  # of each of them
PAUSE_SECONDS: Final = 0.4  # on average, between the operations of one person
TROUBLE_SECONDS: Final = 0.8  # on average, between two things that go wrong at once
STORM_SECONDS_MAX: Final = 20.0
END_SECONDS_MAX: Final = 600.0  # virtual ones, from the beginning: whoever is not done by then hangs
RESTART_SECONDS: Final = 0.3
WARM_SECONDS_MAX: Final = 20.0
SECRET: Final = Secret(b"s" * 32)


class Died(BaseException):
    """The process has been killed: nothing of it runs on."""


class Outcome(Struct):
    """What a history came to: what is wrong, and what was in it."""

    violations: list[str]
    counts: Counter[str]
    entries: int
    hash: bytes  # of the last journal row: the same seed gives the same history


class Process:
    """One life of the market."""

    def __init__(self, history: "History", *, stands_by: bool = False) -> None:
        self.crash = _Chance(history, tuple(MARKET_POINTS | AUCTION_POINTS), self.kill)
        self.market = Market(
            history.spec.market_id,
            history.spec.symbol,
            history.world.journal(),
            history.world,
            history.world,
            history.world,
            SECRET,
            history.clock,
            MarketOptions(currency=CURRENCY, idle_return_seconds=history.idle_seconds, batch_max=history.batch_max),
            cast("Reached", self.crash) if history.chance.random() < 0.5 else None,
            aside=history.aside,
            stands_by=stands_by,
        )
        self.task = asyncio.create_task(self.market.run(), name="market")
        self._loop = history.loop

    def kill(self) -> None:
        """SIGKILL: first nobody hears it any more, then it is gone."""
        port = int(self.market.address.rpartition(":")[2] or 0)
        listener = self._loop._listening.get(port)
        if listener is not None:
            listener.die()
        self.task.cancel()


class _Chance:
    """Dies at a named point, now and then while it storms."""

    def __init__(self, history: "History", points: tuple[str, ...], kill: Any) -> None:
        self._history, self._kill = history, kill
        self._point = history.chance.choice(points)
        self._left = history.chance.randrange(1, 3 if self._point in AUCTION_POINTS else 12)

    def __call__(self, point: str) -> None:
        if point != self._point or not self._history.storms:
            return
        self._left -= 1
        if self._left == 0:
            self._history.counts[f"died at {point}"] += 1
            self._kill()
            raise Died(point)


class History:
    def __init__(self, loop: VirtualLoop) -> None:
        self.chance, self.loop = loop.chance, loop
        mechanism = self.chance.choice((Mechanism.CONTINUOUS, *Mechanism))
        self.spec: MarketSpec = builders.market(
            symbol="SIM", taker_fee_bps=10, mechanism=mechanism, epoch_seconds=1, auction_fee_bps=20
        )
        self.world = World(self.chance, self.spec, CURRENCY)
        self.counts: Counter[str] = self.world.counts
        self.storms, self.stalls = True, 0.0
        self.idle_seconds = self.chance.choice((0.5, 3.0, 60.0))
        self.batch_max = self.chance.choice((2, 8, 512))
        self.processes: list[Process] = []
        self.heirs: list[Process] = []
        self.moving: asyncio.Task[None] | None = None
        self.turned_us = 0  # by so much the machine's clock is wrong
        self.acknowledged: list[Acknowledged] = []
        self.violations: list[str] = []

    def clock(self) -> TimeUs:
        return builders.START_US + round((self.loop.time() - START_SECONDS) * SECOND_US) + self.turned_us

    async def aside(self, work: Callable[[], AuctionOutcome]) -> AuctionOutcome:
        """Somebody else does it, while orders come."""
        await asyncio.sleep(self.chance.uniform(0, 0.3))
        return work()

    async def run(self) -> Outcome:
        for person in PEOPLE:
            self.world.deposit(person, CURRENCY, 40 * builders.COIN)
            self.world.deposit(person, ENERGY, 12_000)
        self.processes.append(Process(self))
        follower = Followers(self)
        gateways = [Links(self._directory, SECRET) for _ in range(2)]
        background = [asyncio.create_task(gateway.run()) for gateway in gateways]
        background += [asyncio.create_task(self._storm(follower)), asyncio.create_task(self._restart())]
        trading = [asyncio.create_task(self._trade(person, gateways)) for person in PEOPLE]
        self.stalls = self.chance.choice((0, 0, 0.01))
        self.world.weather = Weather(
            fails=self.chance.choice((0, 0.01, 0.05)),
            answer_lost=self.chance.choice((0, 0.01, 0.05)),
            stalls=self.stalls,
        )
        try:
            async with asyncio.timeout(END_SECONDS_MAX):
                await asyncio.gather(*trading)
                self.storms = False
                self.world.weather = Weather()
                await background[2]
                if self.moving is not None:
                    await self.moving
                background[3].cancel()
                await self._rest(follower)
        except TimeoutError:
            self.violations += [f"it hangs: {[process.market.status() for process in self.processes]}"]
        finally:
            everything = [*background, *trading, *(process.task for process in self.processes), follower.task]
            everything += [one.task for one in self.heirs if one not in self.processes]
            everything += [self.moving] if self.moving is not None else []
            for task in everything:
                task.cancel()
            await asyncio.wait(everything)
            self._look_at(everything)
        tables = Tables(self.world)
        report = await audit([self.spec], self.world.journal(), self.world, tables, CURRENCY, self.acknowledged)
        return self._outcome(report.violations)

    def _look_at(self, tasks: list["asyncio.Task[Any]"]) -> None:
        """Nothing may have ended in an error but those that were killed."""
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            if error is not None and not _is_a_death(error):
                self.violations.append(f"{task.get_name()} ended with {error!r}")

    def _outcome(self, violations: list[str]) -> Outcome:
        world = self.world
        last = world.rows[-1] if world.rows else None
        found = [*self.violations, *world.broken, *violations]
        return Outcome(found, self.counts, last.last_sequence if last else 0, last.hash if last else b"")

    async def _rest(self, follower: "Followers") -> None:
        """Everything stops in order, and nothing is left in a pocket."""
        await self.world.settle()
        while self.processes[-1].market.status()["state"] != "serving":
            if self.processes[-1].task.done():
                self.processes.append(Process(self))
            await asyncio.sleep(0.1)
        market = self.processes[-1].market
        await market.drain()
        if market._parking.count or market._parking.items() or market._first or market._waiting or market._draft.items:
            self.violations.append("commands were left behind")
        for process in self.processes[:-1]:
            process.kill()
        await follower.stop()

    async def _directory(self, *, waits: bool = False) -> list[Place]:
        await asyncio.sleep(self.chance.uniform(0, 0.01))
        living = [process for process in self.processes if not process.task.done()]
        return [Place(self.spec, living[-1].market.address if living else "")]

    # --- trouble ----------------------------------------------------------------------------------------------------

    async def _restart(self) -> None:
        """What Ray does."""
        while True:
            living = [process.task for process in self.processes if not process.task.done()]
            if living:
                await asyncio.wait(living, timeout=1.0)
            else:
                await asyncio.sleep(RESTART_SECONDS)
                self.processes.append(Process(self))

    async def _storm(self, follower: "Followers") -> None:
        chance, end = self.chance, self.loop.time() + self.chance.uniform(0, STORM_SECONDS_MAX)
        while self.storms and self.loop.time() < end:
            await asyncio.sleep(chance.expovariate(1 / TROUBLE_SECONDS))
            match chance.choice(("kill", "second owner", "cut", "follower", "rot", "move", "clock", "nothing")):
                case "kill":
                    self.counts["killed"] += 1
                    self.processes[-1].kill()
                case "second owner":
                    self.counts["second owner"] += 1
                    self.processes.append(Process(self))
                case "cut" if self.loop.pipes:
                    self.counts["connection broken"] += 1
                    chance.choice(sorted(self.loop.pipes, key=lambda pipe: pipe.number)).break_off()
                case "move" if self.moving is None or self.moving.done():
                    self.moving = asyncio.create_task(self._move(), name="move")
                case "clock":
                    self.counts["clock turned"] += 1
                    self.turned_us = chance.randrange(-5 * SECOND_US, 5 * SECOND_US)
                case "follower":
                    follower.kill()
                case "rot":
                    rotten = [sequence for sequence in self.world.snapshots if sequence]
                    if rotten:
                        self.counts["snapshot rotten"] += 1
                        self.world.damage(chance.choice(rotten))
        self.storms = False
        self.world.weather = Weather()

    async def _move(self) -> None:
        """What the supervisor does: a market is handed over, whatever else goes on (actors/replacing.py)."""
        owner, heir = self.processes[-1], Process(self, stands_by=True)
        self.heirs.append(heir)
        until = self.loop.time() + WARM_SECONDS_MAX
        while heir.market.status()["state"] != STANDING_BY:
            if heir.task.done() or self.loop.time() > until:
                heir.kill()
                return
            await asyncio.sleep(0.05)
        self.processes.append(heir)
        try:
            async with asyncio.timeout(HAND_OVER_SECONDS_MAX):
                await owner.market.hand_over(Heir(heir.market.address, by_snapshot=False))
            self.counts["moved"] += 1
        except TimeoutError:
            self.counts["moved from an owner that hangs"] += 1
        heir.market.take_over()
        await asyncio.sleep(LINGER_SECONDS)
        owner.kill()

    # --- traders ----------------------------------------------------------------------------------------------------

    async def _trade(self, person: int, gateways: list[Links]) -> None:
        open_orders: list[int] = []
        for number in range(OPERATIONS):
            await asyncio.sleep(self.chance.expovariate(1 / PAUSE_SECONDS))
            draw = self.chance.random()
            if draw < 0.15:
                await self._submit(gateways, CancelAll(person), repeat=True)
                open_orders.clear()
            elif draw < 0.3 and open_orders:
                await self._submit(gateways, CancelOrder(person, self.chance.choice(open_orders)), repeat=False)
            elif draw < 0.4 and open_orders:
                amend = AmendOrder(person, self.chance.choice(open_orders), price_micro=self._price())
                await self._submit(gateways, amend, repeat=False)
            elif draw < 0.5:
                await self._several(person, number, gateways)
            else:
                answer = await self._place(gateways, self._order(person, f"{number}"))
                if answer is not None and not answer.order.end_reason:
                    open_orders.append(answer.order.order_id)

    def _order(self, person: int, name: str) -> PlaceOrder:
        return PlaceOrder(
            person,
            self.chance.choice((Side.BUY, Side.SELL)),
            self._price(),
            self.chance.choice((500, 1_000, 1_500)),
            builders.A,
            client_order_id=f"{person}-{name}",
            time_in_force=self.chance.choice((TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC)),
        )

    def _price(self) -> int:
        return self.chance.choice((2_900_000, 3_000_000, 3_100_000))

    async def _place(self, gateways: list[Links], order: PlaceOrder, *, first: bool = True) -> OrderAnswer | None:
        """None when it was refused. first: nobody has sent it before."""
        answer = await self._submit(gateways, order, repeat=True, first=first)
        if not isinstance(answer, OrderAnswer):
            return None
        view = answer.order
        if (view.participant_id, view.client_order_id) != (order.participant_id, order.client_order_id):
            self.violations.append(f"{order} was answered with {view}")
        self.acknowledged.append(
            Acknowledged(
                order.participant_id,
                self.spec.market_id,
                view.order_id,
                order.client_order_id,
                view.sequence,
                view.quantity_wh,
                tuple(fill.trade_number for fill in answer.fills),
            )
        )
        return answer

    async def _several(self, person: int, number: int, gateways: list[Links]) -> None:
        """Orders that leave together are executed in their order, unless some of them got lost."""
        orders = [self._order(person, f"{number}.{each}") for each in range(3)]
        gateway = self.chance.choice(gateways)
        answers = await gateway.submit_many(self.spec.market_id, list[Command](orders))
        told = [answer.order.order_id for answer in answers if isinstance(answer, OrderAnswer)]
        if told != sorted(told):
            self.violations.append(f"participant {person}'s orders were executed out of order: {told}")
        for order in orders:  # again: now every outcome becomes known
            await self._place(gateways, order, first=False)

    async def _submit(self, gateways: list[Links], command: Command, *, repeat: bool, first: bool = True) -> Answer:
        """Whatever fails is repeated when that is safe."""
        faults: set[int] = set() if first else {Fault.OUTCOME_UNKNOWN}
        while True:
            began = self.loop.time()
            answer = await self.chance.choice(gateways).submit(self.spec.market_id, command)
            if self.loop.time() - began >= ANSWER_SECONDS_MAX and not self.stalls:
                self.violations.append(f"{command} was dropped without a word: {answer}")
            if not isinstance(answer, Failed):
                assert isinstance(answer, OrderAnswer | Refusal | Applied), answer
                self.counts["answered"] += 1
                if isinstance(answer, OrderAnswer) and answer.repeated and faults == {Fault.UNAVAILABLE}:
                    self.violations.append(f"{command} was done, and had been told that nothing was")
                return answer
            faults.add(answer.fault)
            self.counts[Fault(answer.fault).name] += 1
            if not repeat:
                return answer
            await asyncio.sleep(0.2)


class Followers:
    """The follower, started again whenever it dies."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._stopping = False
        self._follower: Follower | None = None
        self._life: asyncio.Task[None] | None = None
        self.task = asyncio.create_task(self._run())

    def kill(self) -> None:
        self._history.counts["follower killed"] += 1
        if self._life is not None:
            self._life.cancel()

    async def stop(self) -> None:
        self._stopping = True
        if self._follower is not None:
            self._follower.stop()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        history, world = self._history, self._history.world
        while not self._stopping:
            await world.settle()  # what the one before had sent is decided by the database before the next one reads
            crash = _Chance(history, tuple(FOLLOWER_POINTS), lambda: None)
            self._follower = Follower(
                history.spec.market_id,
                history.spec.symbol,
                world.journal(),
                world,
                world,
                FollowerOptions(CURRENCY, entries_max=7, snapshot_every=15, poll_seconds=0.2),
                cast("Reached", crash),
            )
            self._life = asyncio.create_task(self._follower.run())
            if self._stopping:  # told while nobody followed: this last one begins, and then hears of it
                history.loop.call_soon(self._follower.stop)
            try:
                await asyncio.wait([self._life])
            except asyncio.CancelledError:
                self._life.cancel()
                raise
            if not self._life.cancelled():
                self._life.exception()
            if self._follower.state == "diverged":
                history.violations.append(f"the follower diverged: {self._follower.detail}")
                return


def _is_a_death(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_a_death(one) for one in error.exceptions)
    return isinstance(error, Died | asyncio.CancelledError)


def play(seed: int) -> Outcome:
    """The history of this seed, from the beginning to the judgement."""
    loop = VirtualLoop(random.Random(seed))
    with _alone(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(History(loop).run())


@contextlib.contextmanager
def _alone(loop: VirtualLoop) -> Iterator[None]:
    """Nothing from outside decides anything: no clock but the loop's, no addresses, no collection of garbage.

    The shells do not tidy up the memory of this process either, and their logs go nowhere.
    """
    numbers: dict[int, tuple[int, object]] = {}

    def number(connection: object) -> int:
        return numbers.setdefault(id(connection), (len(numbers), connection))[0]

    with contextlib.ExitStack() as stack:
        stack.callback(gc.enable if gc.isenabled() else gc.disable)
        gc.disable()
        stack.enter_context(mock.patch.object(actors.dataplane.Connection, "__hash__", number))
        for module in (actors.links, actors.market, actors.persistence):
            if hasattr(module, "monotonic"):
                stack.enter_context(mock.patch.object(module, "monotonic", loop.time))
        stack.enter_context(mock.patch.object(actors.market, "gc"))
        stack.enter_context(mock.patch.object(engine.book.call, "TRADES_AT_ONCE", 1))  # auctions here are small
        stack.enter_context(structlog.testing.capture_logs())
        yield
