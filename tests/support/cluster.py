"""A scenario on three Ray nodes of one machine: the node that hosts a market is lost while orders flow.

A program, because Ray reads its environment once and belongs to one cluster per process:

    python -m tests.support.cluster DSN FOLDER        prints what happened as one line of JSON, a `Facts`

The head node takes no actors, so that markets, their supervisor and their follower live on the two others. The lost
node falls silent, as behind a cut cable: its scheduler and the market's process are stopped with SIGSTOP. When the
market is served elsewhere its old process goes on, still believing to own it, and is given an order. Then the node is
killed, another one is added, and the market is moved there while orders flow.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any, Final

import msgspec
import psutil

from engine.messages import PlaceOrder, Side
from engine.views import Answer, Failed, GetMarket, MarketView, OrderAnswer
from tests.support.patience import HUNG_SECONDS, eventually

WORKERS: Final = 2
ORDERS_BEFORE: Final = 30  # acknowledged in each market before the loss, and after it
OBJECT_STORE_BYTES: Final = 80 * 2**20


class Facts(msgspec.Struct):
    """What was seen. nodes: of each market, before and after; the audit's violations must be none."""

    nodes_before: dict[str, int]
    nodes_after: dict[str, int]
    lost: str
    seconds_without: float
    acknowledged: int
    failed: int
    unresolved: int
    old_owner: str
    moved_to: int
    move: str
    refused_by_the_move: list[str]
    violations: list[str]
    entries: int


class Flow:
    """One participant's orders in one market through the data plane, each repeated until its outcome is known."""

    def __init__(self, links: Any, market_id: int, participant_id: int) -> None:
        self._links, self.market_id, self._participant_id = links, market_id, participant_id
        self.acknowledged: list[OrderAnswer] = []
        self.at: list[float] = []  # when each was acknowledged
        self.failures: list[str] = []
        self.unresolved = 0
        self._over = False
        self._last: Answer | None = None

    async def run(self) -> None:
        number = 0
        while not self._over:
            number += 1
            side = Side(number % 2)
            price = 3_000_000 if side is Side.SELL else 3_540_000
            client_id = f"flow-{self._participant_id}-{number}"
            order = PlaceOrder(self._participant_id, side, price, 10 * number % 90 + 10, "Z1", client_id)
            answer = await self._placed(order)
            if isinstance(answer, OrderAnswer):
                self.acknowledged.append(answer)
                self.at.append(monotonic())
            else:
                self.unresolved += 1
            await asyncio.sleep(0.01)

    async def _placed(self, order: PlaceOrder) -> Answer:
        deadline = monotonic() + HUNG_SECONDS
        while True:
            answer: Answer = await self._links.submit(self.market_id, order)
            self._last = answer
            if not isinstance(answer, Failed) or monotonic() > deadline:
                return answer
            self.failures.append(answer.detail)
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        self._over = True

    def __repr__(self) -> str:
        said = f"{len(self.acknowledged)} acknowledged, {len(self.failures)} failed, last {self._last!r}"
        return f"Flow(market {self.market_id}, participant {self._participant_id}: {said})"


def prepare(folder: Path) -> None:
    """What must stand in the environment before Ray is imported."""
    token = folder / "ray-token"
    token.write_text(secrets.token_hex(32))
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # A node that is silent for this long is lost; Ray's own 15 s would be most of the test.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
    }
    (folder / "metrics").mkdir()


async def scenario(dsn: str, folder: Path) -> Facts:
    import ray
    from ray.cluster_utils import Cluster

    from seeding import first_rows
    from wiring import Wiring

    wiring = Wiring(_settings(folder), dsn, "")
    await first_rows(wiring)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        },
    )
    try:
        nodes = [cluster.add_node(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES) for _ in range(WORKERS)]
        await asyncio.to_thread(ray.init, address=cluster.address, namespace="wattbook", log_to_driver=False)
        return await _lose_a_node(wiring, cluster, nodes)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


async def _lose_a_node(wiring: Any, cluster: Any, nodes: list[Any]) -> Facts:
    from actors import handles
    from actors.hosting import SupervisorActor
    from recipes import make_supervisor
    from wiring import recipe as recipe_of

    recipe = recipe_of(wiring, "supervisor", make_supervisor)
    handles.start(SupervisorActor, handles.Placement(handles.SUPERVISOR), recipe)
    async with _linked(wiring) as links:
        specs = links.markets()
        before = {symbol: await _pid(symbol) for symbol in specs}
        nodes_before = {symbol: _node_of(pid, nodes) for symbol, pid in before.items()}
        lost = min(specs)
        flows = [
            Flow(links, spec.market_id, participant)
            for spec in specs.values()
            for participant in await _traders(wiring)
        ]
        running = [asyncio.create_task(flow.run()) for flow in flows]
        await _grown(flows, ORDERS_BEFORE)

        mine = [flow for flow in flows if flow.market_id == specs[lost].market_id]
        old_address = (await handles.call(handles.find(f"market-{lost}"), "status"))["address"]
        owner, node = psutil.Process(before[lost]), nodes[nodes_before[lost]]
        for process in (owner, _scheduler(node)):
            process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.1)  # what it had answered before arrives
        await _grown(mine, 1)
        old_owner = await _ask_the_old_owner(wiring, owner, old_address, specs[lost].market_id)
        await eventually(lambda: not owner.is_running() or owner.status() == psutil.STATUS_ZOMBIE)
        await asyncio.to_thread(cluster.remove_node, node, False)
        await _grown(flows, ORDERS_BEFORE)

        nodes_after = {symbol: _node_of(await _pid(symbol), nodes) for symbol in specs}
        nodes.append(cluster.add_node(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES))  # in the main thread only
        await _grown(flows, ORDERS_BEFORE)
        failed_before = [len(flow.failures) for flow in flows]
        _be_patient()
        move = await _moved(f"market-{lost}", nodes[-1].node_id)
        await _grown(flows, ORDERS_BEFORE)
        refused = [why for flow, count in zip(flows, failed_before, strict=True) for why in flow.failures[count:]]
        moved_to = _node_of(await _pid(lost), nodes)

        for flow in flows:
            flow.stop()
        await asyncio.gather(*running)
        report = await _judged(wiring, links, flows)
        return Facts(
            nodes_before,
            nodes_after,
            lost,
            round(_longest_pause(mine), 2),
            sum(len(flow.acknowledged) for flow in flows),
            sum(len(flow.failures) for flow in flows),
            sum(flow.unresolved for flow in flows),
            old_owner,
            moved_to,
            move,
            refused,
            report.violations,
            report.entries,
        )


async def _moved(name: str, node: str) -> str:
    """Have the supervisor move it there; how that ended."""
    from actors import handles

    processes = handles.Processes()
    await processes.replace(name, by_snapshot=False, node=node)

    async def state() -> str:
        return str((await processes.replacements()).get(name, {}).get("state", ""))

    return str(await eventually(state, lambda one: one in ("done", "failed")))


async def _ask_the_old_owner(wiring: Any, owner: Any, address: str, market_id: int) -> str:
    """Let the old owner go on and give it an order over a connection of its own; what it made of it."""
    from actors.links import Links, Place
    from persistence.catalogue import PostgresCatalogue
    from persistence.postgres import open_pool

    pool = await open_pool(wiring.dsn, 1, "old owner")
    try:
        spec = next(spec for spec in await PostgresCatalogue(pool).markets() if spec.market_id == market_id)
    finally:
        await pool.close()

    async def there(*, waits: bool = False) -> list[Place]:
        return [Place(spec, address)]

    participant = (await _traders(wiring))[0]
    links = Links(there, wiring.cluster_secret)
    task = asyncio.create_task(links.run())
    try:
        owner.send_signal(signal.SIGCONT)
        await eventually(lambda: bool(links.markets()))
        order = PlaceOrder(participant, Side.SELL, 9_000_000, 10, "Z1", "to-the-old-owner")
        answer = await links.submit(market_id, order)
        return f"{type(answer).__name__} {getattr(answer, 'detail', '')}"
    finally:
        task.cancel()
        await asyncio.wait([task])


def _be_patient() -> None:
    """Whether a move refuses anybody is asked, not how long it takes while three nodes share a busy machine."""
    from actors import links

    links.ANSWER_SECONDS_MAX = links.HELD_SECONDS_MAX = HUNG_SECONDS  # type: ignore[misc]


async def _judged(wiring: Any, links: Any, flows: list[Flow]) -> Any:
    """The audit, once the projections have everything."""
    from actors.audit import Acknowledged
    from commands.audit import audit_of
    from persistence.postgres import open_pool
    from persistence.projections import PostgresProjections

    pool = await open_pool(wiring.dsn, 1, "followed")
    try:
        for spec in links.markets().values():
            view = await links.ask(spec.market_id, GetMarket())
            assert isinstance(view, MarketView), view
            projections = PostgresProjections(pool)
            await eventually(lambda: projections.cursor(spec.market_id), lambda cursor: cursor >= view.sequence)  # noqa: B023
    finally:
        await pool.close()
    acknowledged = [
        Acknowledged(
            participant_id=answer.order.participant_id,
            market_id=flow.market_id,
            order_id=answer.order.order_id,
            client_order_id=answer.order.client_order_id,
            sequence=answer.order.sequence,
            quantity_wh=answer.order.quantity_wh,
            trades=tuple(fill.trade_number for fill in answer.fills),
        )
        for flow in flows
        for answer in flow.acknowledged
    ]
    return await audit_of(wiring.settings, wiring.dsn, acknowledged)


@contextlib.asynccontextmanager
async def _linked(wiring: Any) -> AsyncIterator[Any]:
    """Links to all markets, every one of which answers."""
    from actors import handles
    from actors.links import Links

    links = Links(handles.Directory(), wiring.cluster_secret)
    task = asyncio.create_task(links.run())
    try:
        await eventually(lambda: len(links.markets()) >= WORKERS)
        for spec in links.markets().values():
            await eventually(lambda: links.ask(spec.market_id, GetMarket()), lambda view: isinstance(view, MarketView))  # noqa: B023
        yield links
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _traders(wiring: Any) -> list[int]:
    """The demo traders, who have money and energy from the start."""
    from persistence.people import PostgresPeople
    from persistence.postgres import open_pool
    from seeding import DEMO_TRADERS

    pool = await open_pool(wiring.dsn, 1, "traders")
    try:
        found = [await PostgresPeople(pool).by_email(email) for email in DEMO_TRADERS]
        return [user.user_id for user in found if user is not None]
    finally:
        await pool.close()


async def _pid(symbol: str) -> int:
    """The process of the market's actor as the supervisor knows it, once it answers."""
    from actors import handles

    async def status() -> Any:
        said = (await handles.supervision()).get(f"market-{symbol}", {})
        return said if said.get("up") else None

    return int((await eventually(status))["pid"])


def _scheduler(node: Any) -> Any:
    """The process of the node's raylet."""
    (info,) = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


def _node_of(pid: int, nodes: list[Any]) -> int:
    """Which node's scheduler is an ancestor of the process; -1 for none that lives."""
    ancestors = {process.pid for process in psutil.Process(pid).parents()}
    alive = [number for number, node in enumerate(nodes) if node.all_processes.get("raylet")]
    return next((number for number in alive if _scheduler(nodes[number]).pid in ancestors), -1)


def _longest_pause(flows: list[Flow]) -> float:
    """The longest time without any acknowledgement in between."""
    at = sorted(instant for flow in flows for instant in flow.at)
    return max(later - earlier for earlier, later in pairwise(at))


async def _grown(flows: list[Flow], by: int) -> None:
    """Wait until every flow has this many more acknowledgements."""
    wanted = [len(flow.acknowledged) + by for flow in flows]

    def missing() -> list[Flow]:
        return [flow for flow, count in zip(flows, wanted, strict=True) if len(flow.acknowledged) < count]

    await eventually(missing, lambda some: not some)


def _settings(folder: Path) -> Any:
    from config.load import load

    return load({"WATTBOOK_DATA_DIR": str(folder), "WATTBOOK_CLUSTER_SECRET": secrets.token_hex(32)})


def main() -> None:
    dsn, folder = sys.argv[1], Path(sys.argv[2])
    prepare(folder)
    (folder / "keys").mkdir()
    facts = asyncio.run(scenario(dsn, folder))
    print(msgspec.json.encode(facts).decode())


if __name__ == "__main__":
    from tests.support.cluster import main as run  # Ray's workers cannot find what lies in __main__

    run()
