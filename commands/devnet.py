"""A local Solana by itself."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from commands.shared import Failure, console

app = typer.Typer()


@app.command()
def devnet(
    port: Annotated[int, typer.Option(min=1, max=65_534, help="For RPC; the WebSocket also has the next.")] = 8899,
    host: Annotated[str, typer.Option(help="An address of this machine alone.")] = "127.0.0.1",
    state: Annotated[Path | None, typer.Option(help="Where the chain is kept; without it, it ends with this.")] = None,
    slot_ms: Annotated[int, typer.Option(min=50, max=10_000, help="How long a slot takes.")] = 400,
    faults: Annotated[bool, typer.Option("--faults", help="Let RPC calls devnet_* make it fail, for tests.")] = False,
) -> None:
    """A local Solana with the five programs, until Ctrl-C."""
    from chain.devnet.server import NotLoopback, serve

    console.print(f"Solana on http://{host}:{port}, ws://{host}:{port + 1}")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve(host, port, state, slot_ms=slot_ms, with_faults=faults))
    except (NotLoopback, ValueError, OSError) as error:
        raise Failure(str(error)) from error
