"""How tests wait for what must come: look again until it is there, and fail only where it hangs."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

HUNG_SECONDS: Final = 240.0  # whoever waits so long watches something that hangs, however busy the machine is


def until(look: Callable[[], Any], holds: Callable[[Any], bool] = bool) -> Any:
    """What `look` returns once it satisfies `holds`; fails with the last value when it does not in time."""
    deadline = time.monotonic() + HUNG_SECONDS
    while not holds(value := look()):
        assert time.monotonic() < deadline, f"not so after {HUNG_SECONDS} s; last seen: {value!r}"
        time.sleep(0.1)
    return value


async def eventually(look: Callable[[], Any], holds: Callable[[Any], bool] = bool) -> Any:
    """`until` for tasks; `look` may be a coroutine function."""
    value: Any = None
    try:
        async with asyncio.timeout(HUNG_SECONDS):
            while True:
                value = look()
                if asyncio.iscoroutine(value):
                    value = await value
                if holds(value):
                    return value
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not so after {HUNG_SECONDS} s; last seen: {value!r}") from None
