"""Fresh processes under load: markets are moved and gateways restarted, and nobody is refused anything.

What a fault may cost (503, an unknown outcome) a planned change may not. A connection that a gateway closes as it ends
may break a request, which its sender repeats with the same client_order_id.
"""

import asyncio
from pathlib import Path

from tests.support.installation import Installation
from tests.support.traders import SYMBOLS, judged


async def test_a_market_moves_and_a_gateway_restarts_while_people_trade(
    installation: Installation, tmp_path: Path, long: bool
) -> None:
    async with judged(installation, tmp_path) as load:
        for _ in range(5 if long else 1):
            for symbol in SYMBOLS:
                before = await asyncio.to_thread(installation.market_process, symbol)
                since = len(load.log.acknowledgements)
                print(await commanded(installation, "market", "move", symbol))
                await load.recovered()
                print(f"{symbol}: at most {load.log.longest_pause(since):.3f} s without an acknowledgement")
                assert (await asyncio.to_thread(installation.market_process, symbol)).pid != before.pid
            assert not load.faults, f"a planned move was noticed: {load.outcomes}"
        (gateway,) = await asyncio.to_thread(installation.actors, "GatewayActor")
        print(await commanded(installation, "gateway", "restart"))
        await load.recovered()
        assert load.faults == load.outcomes["broken"], f"beyond what a sender repeats: {load.outcomes}"
        (fresh,) = await asyncio.to_thread(installation.actors, "GatewayActor")
        assert fresh.pid != gateway.pid
    await asyncio.to_thread(installation.until_ready)


async def commanded(installation: Installation, *arguments: str) -> str:
    """What `wattbook` said."""
    done = await asyncio.to_thread(installation.command, "wattbook", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
