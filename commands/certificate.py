"""Was that auction right? A published result is checked against its own list of orders; no exchange is needed."""

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.markup import escape

from commands.shared import Failure, console
from engine.auction.certificate import Published, problems
from engine.units import energy_text, money_text

FILE_BYTES_MAX: Final = 512 * 1024 * 1024
SHOWN_MAX: Final = 20

certificates = typer.Typer(help="Results of auctions: check them yourself.", no_args_is_help=True)


@certificates.callback()
def certificate() -> None:
    """A group of its own, so that `verify` stays a word of the command line."""


@certificates.command()
def verify(file: Annotated[Path, typer.Argument(help="A published auction, as JSON.")]) -> None:
    """Check an auction's result against its orders. Status 1 when it cannot be the result of these orders."""
    published = read_published(file)
    found = list(problems(published))
    for problem in found[:SHOWN_MAX]:
        console.print(f"[red]wrong[/] {escape(problem)}", soft_wrap=True)
    if found:
        raise Failure(f"{file}: not the result of these {len(published.orders)} orders: {len(found)} problems")
    console.print(f"[green]verified[/]: {_summary(published)}", soft_wrap=True)


def read_published(file: Path) -> Published:
    """Raises Failure when the file is not there, too large, or not a published auction."""
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise Failure(f"{file}: more than {FILE_BYTES_MAX} bytes")
        return msgspec.json.decode(file.read_bytes(), type=Published)
    except OSError as error:
        raise Failure(f"{file}: cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Failure(f"{file}: not a published auction ({error})") from error


def _summary(published: Published) -> str:
    orders = f"{len(published.orders)} orders, SHA-256 {published.orders_hash[:16]}"
    if published.network is not None:
        energy_wh = sum(zone.bought_wh for zone in published.network.zones)
        fixed = "; with fixed charges" if published.network.fixed_charges else ""
        return f"{len(published.network.zones)} zones, {energy_text(energy_wh)} kWh{fixed}; {orders}"
    assert published.zone is not None
    if not published.zone.price_micro:
        return f"{published.zone.zone}: no price, nothing traded; {orders}"
    zone = published.zone
    return f"{zone.zone}: {energy_text(zone.traded_wh)} kWh at {money_text(zone.price_micro)}; {orders}"
