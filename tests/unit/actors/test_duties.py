"""Duties: asked again and again, whatever they say. Seen to fail for: a fault that ends it, a backlog that waits."""

import asyncio

from prometheus_client import REGISTRY

from actors.duties import Duty, keep
from engine.units import TimeUs
from tests.support.patience import HUNG_SECONDS


class Work:
    """Answers what it is told to, in order, then nothing; stops everything when it has been asked enough."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[TimeUs] = []
        self.stopping = asyncio.Event()

    async def __call__(self, now_us: TimeUs) -> int:
        self.asked.append(now_us)
        answer = self._answers.pop(0)
        if not self._answers:
            self.stopping.set()
        if isinstance(answer, Exception):
            raise answer
        return answer


def value(name: str, duty: str) -> float:
    return REGISTRY.get_sample_value(name, {"duty": duty}) or 0.0


async def test_a_backlog_is_worked_off_at_once() -> None:
    work = Work(3, 2, 1, 4)

    async with asyncio.timeout(HUNG_SECONDS):  # an hour, if it waited in between
        await keep(Duty("backlog", 3_600.0, work), lambda: 7, work.stopping)

    assert work.asked == [7] * 4
    assert value("wattbook_duty_done_total", "backlog") == 10


async def test_a_fault_is_told_and_waited_out() -> None:
    work = Work(RuntimeError("no database"), 0, OSError("gone"), 0)

    async with asyncio.timeout(HUNG_SECONDS):
        await keep(Duty("faulty", 0.001, work), lambda: 7, work.stopping)

    assert len(work.asked) == 4
    assert value("wattbook_duty_faults_total", "faulty") == 2


async def test_stopping_interrupts_the_wait() -> None:
    work = Work(0, 0)
    task = asyncio.create_task(keep(Duty("idle", 3_600.0, work), lambda: 7, work.stopping))
    await asyncio.sleep(0)
    work.stopping.set()

    async with asyncio.timeout(HUNG_SECONDS):
        await task

    assert len(work.asked) == 1
