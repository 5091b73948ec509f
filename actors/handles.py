"""The only file that says `.remote`: starting, finding, asking and ending actors through Ray.

Nothing per order passes here. Every call has a time-out, because the control plane may be slow when things go wrong.
"""

import asyncio
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import ray
from msgspec import Struct

from actors.hosting import Host, Recipe
from actors.links import Place

NAMESPACE: Final = "wattbook"
SUPERVISOR: Final = "supervisor"
CALL_SECONDS_MAX: Final = 5.0
LOOK_SECONDS_MAX: Final = 2.0  # a person waits
CPUS: Final = 0.01  # an actor waits most of the time; real load is spread by the placement below

_decode_place = msgspec.msgpack.Decoder(Place).decode


OBJECT_STORE_BYTES: Final = 80 * 2**20  # the least that Ray takes; nothing of ours lies there
FOLDER_LENGTH_MAX: Final = 40  # Ray's sockets lie below it, and a socket's path has at most 107 bytes


class Unreachable(Exception):
    """The actor did not answer through Ray in time: dead, restarting, or not there yet."""


class Placement(Struct, frozen=True):
    """name: how the dashboard lists it. spread: not beside its like if it can be helped. node: there, if it lives."""

    name: str
    spread: bool = False
    node: str = ""  # as Ray calls it, in hex


def join_cluster(address: str) -> None:
    """Become a driver of a cluster that others run."""
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)


def start_cluster(folder: Path, dashboard_port: int) -> None:
    """Start Ray on this machine for as long as this process lives, its dashboard on loopback."""
    if len(str(folder)) > FOLDER_LENGTH_MAX:
        folder = Path(tempfile.gettempdir()) / f"wattbook-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    ray.init(
        num_cpus=max(2, os.cpu_count() or 2),
        namespace=NAMESPACE,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard_port,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder),
    )


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
    """What the actor's method returns. Raises Unreachable."""
    try:
        async with asyncio.timeout(seconds):
            return await getattr(actor, method).remote(*arguments)
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


async def directory() -> list[Place]:
    """Every market and where it listens, as the supervisor knows it. Raises Unreachable."""
    supervisor = await asyncio.to_thread(find, SUPERVISOR)  # Ray's look-up by name blocks
    return [_decode_place(place) for place in await call(supervisor, "directory")]


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


async def meter_directory() -> list[str]:
    """Where each shard of the meters listens, as the supervisor knows it. Raises Unreachable."""
    supervisor = await asyncio.to_thread(find, SUPERVISOR)  # Ray's look-up by name blocks
    return list(await call(supervisor, "meter_directory"))
