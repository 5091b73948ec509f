"""A bound on the time of each request, for thousands of them a second.

`asyncio.timeout` sets a timer for each and takes it back, which costs an order more than its engine does. Here a
request notes when it came, and one round looks for those that are late: in turn, because all have the same time.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

ROUNDS: Final = 20  # within the time that a request has: so much too late may it be ended


class Deadlines:
    """Of requests that may take as long as each other."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._every = seconds, seconds / ROUNDS
        self._open: dict[Deadline, None] = {}  # the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def begin(self) -> "Deadline":
        """A context manager for the task that calls: raises TimeoutError in it when its time is over."""
        return Deadline(self)

    def enter(self, deadline: "Deadline") -> float:
        """When it is over, in seconds of the loop's clock."""
        loop = asyncio.get_running_loop()
        self._open[deadline] = None
        if self._timer is None:
            self._timer = loop.call_later(self._every, self._round)
        return loop.time() + self._seconds

    def leave(self, deadline: "Deadline") -> None:
        self._open.pop(deadline, None)

    def _round(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for deadline in list(self._open):
            if deadline.due > now:
                break
            del self._open[deadline]
            deadline.end()
        self._timer = loop.call_later(self._every, self._round) if self._open else None


class Deadline:
    """One task's, as asyncio.timeout's: a cancellation of its own becomes a TimeoutError, any other stays one."""

    __slots__ = ("_all", "_cancelling", "_is_over", "_task", "due")

    def __init__(self, all_: Deadlines) -> None:
        self._all, self._is_over, self.due = all_, False, 0.0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "only a task can be cancelled"
        self._task, self._cancelling = task, task.cancelling()
        self.due = self._all.enter(self)
        return self

    def end(self) -> None:
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.leave(self)
        # Somebody else may have cancelled it as well: then that is what happened.
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
