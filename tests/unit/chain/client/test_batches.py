"""Many questions in few requests: each answer to its own question, and an endpoint that takes none is passed over.

Seen to fail for: answers taken in the order in which they come, a refusal that is lost among answers, a lagging node
that is believed.
"""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from solana.rpc.core import RPCException
from solders.pubkey import Pubkey
from solders.rpc.responses import GetBalanceResp

from chain.client.rpc import ChainUnavailable, RpcPool, RpcSettings

KEYS = [Pubkey(bytes([number]) * 32) for number in range(1, 8)]
REFUSED = {"code": -32602, "message": "Invalid params"}
BEHIND = {"code": -32005, "message": "Node is behind by 7 slots", "data": {"numSlotsBehind": 7}}


def lamports(key: str) -> int:
    return bytes(Pubkey.from_string(key))[0]


def answered(asked: dict[str, Any]) -> dict[str, Any]:
    value = {"context": {"slot": 1, "apiVersion": "2.2.0"}, "value": lamports(asked["params"][0])}
    return {"jsonrpc": "2.0", "id": asked["id"], "result": value}


def pool_of(answer: Callable[[Any], Any], together_max: int = 3) -> RpcPool:
    """An endpoint that answers what it was asked with this; requests are counted in `pool.asked`."""

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=answer(json.loads(request.content)))

    settings = RpcSettings(
        urls=("http://chain.example",),
        attempts_max=2,
        wait_seconds=0.01,
        wait_seconds_max=0.01,
        together_max=together_max,
    )
    pool = RpcPool(settings)
    pool._endpoints[0].batches = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return pool


async def balances(pool: RpcPool) -> list[Any]:
    async with pool:
        return await pool.ask_together("getBalance", [(str(key),) for key in KEYS], GetBalanceResp)


async def test_each_answer_is_of_its_question_in_whatever_order_they_come() -> None:
    sizes = []

    def reversed_(asked: Any) -> Any:
        sizes.append(len(asked) if isinstance(asked, list) else 1)
        return [answered(each) for each in asked][::-1] if isinstance(asked, list) else answered(asked)

    found = await balances(pool_of(reversed_))

    assert [each.value for each in found] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(sizes) == [1, 3, 3]


async def test_what_is_refused_is_told_and_the_others_are_answered() -> None:
    def some(asked: Any) -> Any:
        several = asked if isinstance(asked, list) else [asked]
        told = [
            {"jsonrpc": "2.0", "id": each["id"], "error": REFUSED}
            if lamports(each["params"][0]) == 2
            else answered(each)
            for each in several
        ]
        return told if isinstance(asked, list) else told[0]

    found = await balances(pool_of(some))

    assert [isinstance(each, RPCException) for each in found] == [False, True, *[False] * 5]


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches"}},
        lambda asked: [answered(each) for each in asked][:-1],
        lambda asked: [{"jsonrpc": "2.0", "id": each["id"], "error": BEHIND} for each in asked],
        lambda _: "busy",
    ],
    ids=["takes no batches", "answers too little", "is behind", "says something else"],
)
async def test_an_endpoint_that_cannot_is_no_answer(answer: Callable[[Any], Any]) -> None:
    with pytest.raises(ChainUnavailable):
        await balances(pool_of(answer, together_max=7))


async def test_one_at_a_time_makes_no_batches() -> None:
    found = await balances(pool_of(answered, together_max=1))

    assert [each.value for each in found] == [1, 2, 3, 4, 5, 6, 7]
