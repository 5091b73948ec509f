"""What is due every so often whether or not anybody asks for it: settlements, rounds of the oracle.

A duty is asked again and again, and knows itself what is due: asking twice, late or by two processes changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from actors import metrics
from engine.units import TimeUs

log = structlog.get_logger()


class Duty(NamedTuple):
    """work: given the time, does what is due and says how much that was; more than nothing: asked again at once."""

    name: str
    every_seconds: float
    work: Callable[[TimeUs], Awaitable[int]]


async def keep(duty: Duty, clock: Callable[[], TimeUs], stopping: asyncio.Event) -> None:
    """Ask until stopping; a fault is told and waited out."""
    while not stopping.is_set():
        try:
            done = await duty.work(clock())
            metrics.DUTY_DONE.labels(duty.name).inc(done)
            if done:
                continue
        except Exception as error:  # noqa: BLE001 - whatever ails it, it is told, and tried again
            metrics.DUTY_FAULTS.labels(duty.name).inc()
            log.error("duty.failed", duty=duty.name, why=repr(error))
        try:
            async with asyncio.timeout(duty.every_seconds):
                await stopping.wait()
        except TimeoutError:
            continue
