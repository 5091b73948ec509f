"""`wattbook trace`: one order's way with its times, from the request to the chain, out of what is stored anyway."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from actors.order_traces import OrderTrace, find
from commands.shared import Failure, console, with_database
from config.load import load
from persistence.order_traces import PostgresOrderTraces
from persistence.postgres import open_pool

Step = tuple[int, str, str]  # when (us UTC), how long since the step before, what

app = typer.Typer()


@app.command()
def trace(request_id: Annotated[str, typer.Argument(help="The X-Request-Id of the answer.")]) -> None:
    """Show the way of one order: gateway, market, journal, trades, settlement, chain.

    Of orders that were placed, changed or cancelled one by one over HTTP at a gateway of this machine.
    """
    settings = load()
    found = find(settings.traces, request_id)
    if not found:
        raise Failure(
            f"no gateway of this machine knows an order of request {request_id}: it was none, was refused, came in a "
            f"batch or over a socket, or was one of more than {settings.orders_traced} ago (orders_traced)"
        )
    for one in found:
        steps = with_database(lambda dsn, one=one: steps_of(dsn, one))  # type: ignore[misc]
        console.print(f"order {one.market_id}-{one.order_id}, sequence {one.sequence}, through {one.gateway}")
        for at_us, took, what in steps:
            at = datetime.fromtimestamp(at_us / 1e6, UTC)
            console.print(f"{at:%m-%d %H:%M:%S.%f}  {took:>10}  {what}", soft_wrap=True)


async def steps_of(dsn: str, one: OrderTrace) -> list[Step]:
    """In the order in which they happened; those of the gateway by its clock, the commit by the database's."""
    pool = await open_pool(dsn, 2, "trace")
    try:
        tables = PostgresOrderTraces(pool)
        commit = await tables.commit(one.market_id, one.sequence)
        trades = await tables.trades(one.market_id, one.order_id)
        parts = await tables.parts(sorted({trade.settlement for trade in trades if trade.settlement is not None}))
    finally:
        await pool.close()
    at_us = one.came_us
    steps: list[Step] = [(at_us, "", "came")]
    for took_us, what in (
        (one.authenticate_us, "its caller was known and within his limits"),
        (one.read_us, "it was read and handed to the market"),
        (one.market_us, "the market had answered: it is durable"),
        (one.answer_us, "answered"),
    ):
        at_us += took_us
        steps.append((at_us, f"+{took_us} us", what))
    if commit is not None:
        rows = f"{commit.first_sequence} to {commit.last_sequence}"
        steps.append((commit.committed_us, "", f"committed with sequences {rows}, by the database's clock"))
    steps += [(trade.time_us, "", f"trade {one.market_id}-{trade.number}: {trade.energy_wh} Wh") for trade in trades]
    for number, settled_us in {trade.settlement: trade.settled_us for trade in trades}.items():
        if number is not None and settled_us is not None:
            steps.append((settled_us, "", f"settlement {number} took its trades"))
    for part in parts:
        where = f", slot {part.slot}, {part.signature}" if part.signature else ""
        steps.append((part.changed_us, "", f"settlement {part.settlement}, part {part.part}: {part.state}{where}"))
    return sorted(steps, key=lambda step: step[0])
