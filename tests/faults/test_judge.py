"""The judge itself: it finds what an exchange did not keep."""

import asyncio
from pathlib import Path

import msgspec

from tests.support.installation import Installation
from tests.support.traders import Load, TimedLog


async def test_the_judge_finds_what_was_not_kept(installation: Installation, tmp_path: Path) -> None:
    """The same judgement on a log that says more than the exchange did."""
    log_path = tmp_path / "acknowledged.jsonl"
    log = TimedLog(log_path)
    load = Load(installation.url, log)
    person = (await load.people(1))[0]
    order = {"market": "CAMPUS", "side": "sell", "type": "limit", "price": "9.000", "quantity": "1.000"}
    first = await person.place(dict(order), log)
    second = await person.place(dict(order), log)
    await load.stop()
    assert (first.status, second.status) == (201, 201)

    lines = log_path.read_bytes().splitlines()
    forged = msgspec.json.decode(lines[1])
    forged["client_order_id"] = "never-sent"
    log_path.write_bytes(lines[0] + b"\n" + msgspec.json.encode(forged) + b"\n")
    audit = await asyncio.to_thread(installation.command, "wattbook", "audit", "--acknowledged", str(log_path))

    assert audit.returncode == 1
    assert "has another client_order_id" in audit.stdout
