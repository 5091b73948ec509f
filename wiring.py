"""What each part of the exchange must know to find the others, and how it is made in the process that Ray gives it.

Ray's workers import this file and the recipes by their names: what they must run is written down as a function and its
arguments.
"""

import gc
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import stamina
from msgspec import Struct

from actors.dataplane import Secret
from actors.hosting import Recipe
from actors.sampling import sample_part, sample_pool
from config.logs import log_to
from config.settings import Settings
from persistence.postgres import Pool, open_pool

if TYPE_CHECKING:
    from actors.tracing import Tracing

BACKGROUND_NICE: Final = 10
GC_THRESHOLDS: Final = (20_000, 20, 100)


class Wiring(Struct, frozen=True):
    """What a part must know to find the others: it travels to the process where the part is made."""

    settings: Settings
    dsn: str
    redis_url: str
    chain_urls: tuple[str, ...] = ()  # RPC endpoints; none: there is no chain

    def __repr__(self) -> str:  # addresses may hold passwords
        return "Wiring(...)"

    @property
    def cluster_secret(self) -> Secret:
        given = self.settings.cluster_secret
        return Secret(given.encode() if given else (self.settings.keys / "cluster-secret").read_bytes())


def recipe(wiring: Wiring, name: str, make: Callable[..., Awaitable[Any]], *arguments: Any) -> Recipe:
    return partial(_make, wiring, name, make, *arguments)


async def _make(wiring: Wiring, name: str, make: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    from actors.dashboard import teller

    log_to(wiring.settings.logs, name, wiring.settings.log_level)
    part = await make(wiring, *arguments)
    sample_part(name, part, teller(name))
    gc.collect()
    gc.freeze()  # what was imported stays: no collection need walk through it, and none come often
    gc.set_threshold(*GC_THRESHOLDS)
    return part


@stamina.retry(on=(OSError, asyncpg.PostgresError, TimeoutError), attempts=30, timeout=60.0, wait_max=2.0)
async def pool_of(
    wiring: Wiring,
    name: str,
    size_max: int,
    *,
    waits: bool = True,
    nice: int = 0,
    queried: Callable[[Any], None] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Pool:
    pool = await open_pool(wiring.dsn, size_max, name, waits=waits, nice=nice, queried=queried, settings=settings)
    sample_pool(name, pool)
    return pool


def tracing_of(settings: Settings, part: str) -> "Tracing | None":
    """What makes this process's spans; its library is not even imported where nobody wants them."""
    if not settings.otlp_endpoint:
        return None
    from actors.tracing import Tracing

    return Tracing(part, settings.otlp_endpoint, settings.trace_sample)
