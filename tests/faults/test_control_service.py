"""Ray's control service is killed under load: nobody who trades notices, and it is back for who needs it.

Seen to fail for: a control service that is not started again; one that has forgotten all actors.
"""

import asyncio
from pathlib import Path

from tests.support import faults
from tests.support.installation import Installation
from tests.support.traders import RESUMED, SYMBOLS, judged


async def test_nobody_who_trades_notices_that_the_control_service_died(
    installation: Installation, tmp_path: Path
) -> None:
    async with judged(installation, tmp_path) as load:
        supervisor = await asyncio.to_thread(installation.actors, "SupervisorActor")
        before = await asyncio.to_thread(faults.control_service, installation)
        since = len(load.log.acknowledgements)
        await faults.kill(before)
        for symbol in SYMBOLS:
            await load.acknowledged(symbol, 5 * RESUMED, since)
        await faults.whole(installation)
        print(f"at most {load.log.longest_pause(since):.2f} s without an acknowledgement")
        assert not load.faults, f"the data plane needs Ray: {load.outcomes}"

        assert "Ray's control service runs again" in installation.output
        assert (await asyncio.to_thread(faults.control_service, installation)).pid != before.pid
        await faults.kill_market(installation)  # the one that knows how to start it anew is the one that came back
        print(f"a market killed then was back after {await load.recovered():.2f} s")
        await faults.whole(installation)
        assert await asyncio.to_thread(installation.actors, "SupervisorActor") == supervisor
