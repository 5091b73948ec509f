"""The only file that says `.remote`: starting, finding, asking and ending actors through Ray.

Nothing per order passes here. Every call has a time-out, because the control plane may be slow when things go wrong.
"""

import asyncio
import hashlib
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import ray
import stamina
from msgspec import Struct
from ray.job_config import JobConfig

from actors.hosting import Host, Recipe
from actors.links import Place

NAMESPACE: Final = "wattbook"
SUPERVISOR: Final = "supervisor"
CALL_SECONDS_MAX: Final = 5.0
NEWS_SECONDS_MAX: Final = 5.0  # who waits for a change is answered by then without one
LOOK_SECONDS_MAX: Final = 2.0  # a person waits
WHY_CHARACTERS_MAX: Final = 300
CPUS: Final = 0.01  # an actor waits most of the time; real load is spread by the placement below

_decode_place = msgspec.msgpack.Decoder(Place).decode


OBJECT_STORE_BYTES: Final = 80 * 2**20  # the least that Ray takes; nothing of ours lies there
_CONTROL_SERVICE: Final = "gcs_server"  # as Ray calls the process
_AGENT: Final = re.compile(rb"ray::DashboardAgent|dashboard/agent\.py")  # what it calls itself, and before that
WAKES: Final = {
    "RAY_task_events_report_interval_ms": "0",  # a page of all calls ever made: here, of the supervisor's questions
    "RAY_event_stats": "0",  # times of Ray's own event loops, for its logs
    "RAY_memory_monitor_refresh_ms": "1000",  # 250
    "RAY_raylet_check_gc_period_milliseconds": "1000",  # 100
    "RAY_raylet_report_resources_period_milliseconds": "1000",  # 100
    "RAY_kill_idle_workers_interval_ms": "2000",  # 200
    "REPORTER_UPDATE_INTERVAL_MS": "15000",  # 5000; processor and memory of each process, for the dashboard
    "METRICS_RECORD_INTERVAL_S": "30",  # 5; the dashboard's own
    "SCAN_EVENT_DIR_INTERVAL_SECONDS": "30",  # 2
}  # Ray's defaults in the comments; deploy/kubernetes says the same to a cluster
FOLDER_LENGTH_MAX: Final = 40  # Ray's sockets lie below it, and a socket's path has at most 107 bytes
NODE_SECONDS_MAX: Final = 240.0  # for a node to say that it is there


class Unreachable(Exception):
    """The actor did not answer through Ray in time: dead, restarting, or not there yet."""


class Unmade(Unreachable):
    """The actor's process could not make what it was to be; says with what error."""


class Placement(Struct, frozen=True):
    """name: how the dashboard lists it. spread: not beside its like if it can be helped. node: there, if it lives."""

    name: str
    spread: bool = False
    node: str = ""  # as Ray calls it, in hex


class _Job(JobConfig):
    """Its processes import what is installed.

    Ray has them import from the folders of the driver's script and of its caller before all else, whatever lies there,
    unless the job brings its own.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def join_cluster(address: str) -> None:
    """Become a driver of a cluster that others run."""
    ray.init(address=address, namespace=NAMESPACE, job_config=_Job(), log_to_driver=False, logging_level=logging.ERROR)


def wait_for_slow_machines() -> None:
    """Have a Ray that is started from now on wait for its own node longer than its 30 s, which no setting changes."""
    services = ray._private.services  # noqa: SLF001
    patiently = stamina.retry(on=RuntimeError, attempts=None, timeout=NODE_SECONDS_MAX, wait_initial=0.1, wait_max=0.5)
    services.get_node = patiently(services.get_node)


class ControlService:
    """Ray's control service (GCS) of the cluster that start_cluster has started, for actors/keeper.py.

    It keeps what it knows in a database of its own, so that a fresh process at the same port goes on where this one
    ended: nobody notices but who wanted to start, find or end an actor meanwhile. Unless it is back within a minute,
    every process of Ray ends itself. Ray has no public way to start it again.
    """

    name = "Ray's control service"

    @property
    def running(self) -> bool:
        processes = _head().all_processes.get(_CONTROL_SERVICE)
        return bool(processes) and processes[0].process.poll() is None

    def restart(self) -> str:
        head = _head()
        head.kill_gcs_server(check_alive=False)  # forget the one that has ended
        head.start_gcs_server()
        return str(head.gcs_address)


def onlookers() -> list[int]:
    """Processes of the cluster that start_cluster has started which only show how it is, without those below them.

    The dashboard; its agent, which the raylet has started; what would report to an autoscaler.
    """
    known = _head().all_processes
    of_raylet = [one.process.pid for one in known.get("raylet", ())]
    agents = [
        int(child)
        for pid in of_raylet
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for child in file.read_text().split()
        if _AGENT.search(Path(f"/proc/{child}/cmdline").read_bytes())
    ]
    return [*(one.process.pid for name in ("dashboard", "monitor") for one in known.get(name, ())), *agents]


def _head() -> Any:
    return ray._private.worker._global_node  # noqa: SLF001


def keep_control_service_in(folder: Path) -> None:
    """Have a control service that is started from now on keep what it knows there; nothing of an earlier one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    os.environ["RAY_gcs_storage"] = "rocksdb"  # noqa: SIM112 - Ray's names
    os.environ["RAY_gcs_storage_path"] = str(folder)  # noqa: SIM112


def wake_seldom() -> None:
    """Have a Ray that is started from now on do more rarely what nobody waits for, unless the environment says else.

    On a small machine every time that one of its many processes wakes, an order waits.
    """
    for name, value in WAKES.items():
        os.environ.setdefault(name, value)


def start_cluster(folder: Path, dashboard_port: int) -> None:
    """Start Ray on this machine for as long as this process lives, its dashboard on loopback."""
    if len(str(folder)) > FOLDER_LENGTH_MAX:
        folder = Path(tempfile.gettempdir()) / f"wattbook-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    keep_control_service_in(folder / "control")
    wake_seldom()
    wait_for_slow_machines()
    ray.init(
        num_cpus=max(2, os.cpu_count() or 2),
        namespace=NAMESPACE,
        job_config=_Job(),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard_port,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder),
    )
    _head().kill_log_monitor(check_alive=False)  # it carries workers' output to drivers: log_to_driver=False


def node_address() -> str:
    """Of the node that this process runs on, as the others reach it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def leave_cluster() -> None:
    """End what start_cluster started, or leave what join_cluster joined."""
    if ray.is_initialized():
        ray.shutdown()


def start(kind: type[Host], placement: Placement, recipe: Recipe) -> Any:
    """The named actor, started if it is not there yet; Ray restarts it for ever and repeats none of its calls."""
    actor = ray.remote(kind).options(
        name=placement.name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=CPUS,
        scheduling_strategy=_strategy(placement),
    )
    return actor.remote(recipe)


def _strategy(placement: Placement) -> Any:
    if placement.node:
        return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(placement.node, soft=True)
    return "SPREAD" if placement.spread else "DEFAULT"


async def call(actor: Any, method: str, *arguments: Any, seconds: float = CALL_SECONDS_MAX) -> Any:
    """What the actor's method returns. Raises Unreachable, Unmade."""
    try:
        async with asyncio.timeout(seconds):
            return await getattr(actor, method).remote(*arguments)
    except ray.exceptions.ActorDiedError as error:
        if not error.actor_init_failed:
            raise Unreachable(f"{method}: {type(error).__name__}") from error
        raise Unmade(
            str(error).strip().rpartition("\n")[2][:WHY_CHARACTERS_MAX]
        ) from error  # the rest is its traceback
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise Unreachable(f"{method}: {type(error).__name__}") from error


def find(name: str) -> Any:
    """The handle of a named actor. Raises Unreachable."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError as error:
        raise Unreachable(f"no actor is named {name}") from error


def names() -> frozenset[str]:
    """Of all actors that are there, or on their way back."""
    return frozenset(str(name) for name in ray.util.list_named_actors())


def end(actor: Any) -> None:
    """End the actor's process for good."""
    ray.kill(actor, no_restart=True)


class _Asked:
    """What the supervisor says in answer to one question, asked again and again; it answers when that has changed."""

    method: str

    def __init__(self) -> None:
        self._known = b""  # digest of the last answer

    async def _ask(self, *, waits: bool) -> list[bytes]:
        supervisor = await asyncio.to_thread(find, SUPERVISOR)  # Ray's look-up by name blocks
        known = self._known if waits else b""
        seconds = CALL_SECONDS_MAX + (NEWS_SECONDS_MAX if known else 0.0)
        self._known, said = await call(supervisor, self.method, known, seconds=seconds)
        return list(said)


class Directory(_Asked):
    """Every market and where it listens, as the supervisor knows it: links.Directory. Raises Unreachable."""

    method = "directory"

    async def __call__(self, *, waits: bool = False) -> list[Place]:
        return [_decode_place(place) for place in await self._ask(waits=waits)]


class MeterDirectory(_Asked):
    """Where each shard of the meters listens, as the supervisor knows it: meter_links.Directory. Raises Unreachable."""

    method = "meter_directory"

    async def __call__(self, *, waits: bool = False) -> list[str]:
        return [address.decode() for address in await self._ask(waits=waits)]


async def supervision() -> dict[str, Any]:
    """What the supervisor knows of every actor, for operators; empty when it does not answer."""
    try:
        supervisor = await asyncio.to_thread(find, SUPERVISOR)  # Ray's look-up by name blocks
        return dict(await call(supervisor, "status", seconds=LOOK_SECONDS_MAX))
    except Unreachable:
        return {}


class Processes:
    """How the supervisor replaces processes, for operators; everything is empty when it does not answer."""

    async def replace(self, name: str, *, by_snapshot: bool, node: str, shared: bool | None = None) -> dict[str, Any]:
        """Begin to replace this actor's process; how that stands."""
        try:
            supervisor = await asyncio.to_thread(find, SUPERVISOR)
            return dict(await call(supervisor, "replace", name, by_snapshot, node, shared))
        except Unreachable:
            return {}

    async def replacements(self) -> dict[str, Any]:
        """How the last replacement of each actor went, or goes, by its name."""
        try:
            supervisor = await asyncio.to_thread(find, SUPERVISOR)
            return dict(await call(supervisor, "replacements", seconds=LOOK_SECONDS_MAX))
        except Unreachable:
            return {}
