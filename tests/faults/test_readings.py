"""SIGKILL and SIGSTOP in mid-batch while meters speak: what was acknowledged is there once, and no Wh twice.

The judge is the senders' own log of every acknowledged reading, held against the tables, the windows and the ledger.
Seen to fail for: an answer before its commit; open windows that a restart does not read.
"""

import asyncio
from functools import partial
from pathlib import Path

from tests.support import faults
from tests.support.installation import Installation
from tests.support.patience import eventually
from tests.support.reading_load import judged_readings
from tests.support.traders import SYMBOLS

FAULTS: dict[str, faults.Fault] = {
    "meter aggregator": partial(faults.kill_actor, kind="MeterAggregatorActor"),
    "gateway": partial(faults.kill_actor, kind="GatewayActor"),
    "one Postgres session": faults.kill_backend,
    "Postgres": faults.kill_postgres,
    "Postgres stopped for 5 s": faults.stop_postgres,
}


async def test_whatever_is_killed_no_reading_is_lost_and_none_counts_twice(
    installation: Installation, tmp_path: Path, long: bool
) -> None:
    async with judged_readings(installation, tmp_path) as load:
        for _ in range(4 if long else 1):
            for name, fault in FAULTS.items():
                await fault(installation)
                seconds = await load.recovered()
                await faults.whole(installation)
                print(f"{name}: readings acknowledged again after {seconds:.2f} s")
    await asyncio.to_thread(installation.until_ready)
    admin = await asyncio.to_thread(installation.admin)
    for symbol in SYMBOLS:  # nobody has traded, so a market may learn only now that its session ended
        ask = partial(asyncio.to_thread, admin.ask, "POST", f"/markets/{symbol}/cancel-all")
        await eventually(ask, lambda answer: answer.status_code == 200)
