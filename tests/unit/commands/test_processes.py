"""What `wattbook market move` makes of the answers that it gets while a process is replaced.

Seen to fail for: waiting for minutes for what a supervisor that began anew does not know; giving up while it is away.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from commands import processes
from commands.shared import Failure

TOLD = {"began_at": "2026-11-22T10:00:00Z", "state": "warming", "detail": "", "from_pid": 1, "to_pid": 2}
DONE = {**TOLD, "state": "done"}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOK_SECONDS", 0.0)


def exchange(looks: Iterator[dict[str, Any] | None], supervised: Callable[[], bool]) -> httpx.Client:
    """One that begins a replacement, and then says of it what comes next; None: it knows of none."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/admin/status":
            return httpx.Response(200, json={"supervised": supervised()})
        if request.method == "POST":
            return httpx.Response(202, json=TOLD)
        told = next(looks)
        return httpx.Response(404) if told is None else httpx.Response(200, json=told)

    return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://exchange")


def test_it_waits_while_the_supervisor_is_away() -> None:
    away = 4 * processes.FORGOTTEN_LOOKS

    with exchange(iter([TOLD, *[None] * away, DONE]), lambda: False) as client:
        assert processes._replaced(client, "market-CAMPUS") == DONE


def test_it_says_so_when_the_supervisor_that_is_there_has_forgotten() -> None:
    looks = iter([TOLD, *[None] * (processes.FORGOTTEN_LOOKS + 1)])

    with exchange(looks, lambda: True) as client, pytest.raises(Failure, match="began anew"):
        processes._replaced(client, "market-CAMPUS")

    assert list(looks) == [None], "as soon as it is sure"


def test_a_look_or_two_while_it_comes_back_are_no_proof() -> None:
    gaps = [None] * (processes.FORGOTTEN_LOOKS - 1)

    with exchange(iter([*gaps, TOLD, *gaps, DONE]), lambda: True) as client:
        assert processes._replaced(client, "market-CAMPUS") == DONE
