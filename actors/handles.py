"""The only file that says `.remote`: starting, finding, asking and ending actors through Ray.

Nothing per order passes here. Every call has a time-out, because the control plane may be slow when things go wrong.
"""

import asyncio
from typing import Any, Final

import msgspec
import ray
from msgspec import Struct

from actors.hosting import Host, Recipe
from actors.links import Place

NAMESPACE: Final = "wattbook"
SUPERVISOR: Final = "supervisor"
CALL_SECONDS_MAX: Final = 5.0
CPUS: Final = 0.01  # an actor waits most of the time; real load is spread by the placement below

_decode_place = msgspec.msgpack.Decoder(Place).decode


class Unreachable(Exception):
    """The actor did not answer through Ray in time: dead, restarting, or not there yet."""


class Placement(Struct, frozen=True):
    """name: how the dashboard lists it. spread: not beside its like if it can be helped."""

    name: str
    spread: bool = False


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
        scheduling_strategy="SPREAD" if placement.spread else "DEFAULT",
    )
    return actor.remote(recipe)


async def call(actor: Any, method: str, seconds: float = CALL_SECONDS_MAX) -> Any:
    """What the actor's method returns. Raises Unreachable."""
    try:
        async with asyncio.timeout(seconds):
            return await getattr(actor, method).remote()
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise Unreachable(f"{method}: {type(error).__name__}") from error


def find(name: str) -> Any:
    """The handle of a named actor. Raises Unreachable."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError as error:
        raise Unreachable(f"no actor is named {name}") from error


def end(actor: Any) -> None:
    """End the actor's process for good."""
    ray.kill(actor, no_restart=True)


async def directory() -> list[Place]:
    """Every market and where it listens, as the supervisor knows it. Raises Unreachable."""
    supervisor = await asyncio.to_thread(find, SUPERVISOR)  # Ray's look-up by name blocks
    return [_decode_place(place) for place in await call(supervisor, "directory")]
