"""How the running exchange is, seen through its API."""

import httpx
import typer
from rich.table import Table

from commands.shared import Failure, api_of, console
from config.load import load

app = typer.Typer()


@app.command()
def status() -> None:
    """How the running exchange is: every dependency, every market, what is not ready and why."""
    settings = load()
    with api_of(settings) as client:
        health = client.get("/health").json()
        ready = client.get("/health/ready")
    table = Table("part", "state", "latency", "why", box=None)
    for name, part in health.get("dependencies", {}).items():
        table.add_row(name, part["state"], f"{part['latency_ms']} ms", part.get("reason") or "")
    console.print(table)
    if ready.status_code == httpx.codes.OK:
        console.print("[green]ready[/]: orders can be placed in every open market")
        return
    for reason in ready.json().get("reasons", []):
        console.print(f"[red]not ready[/]: {reason}")
    raise Failure("the exchange is not ready")


@app.command()
def markets() -> None:
    """The markets with their phase, best prices and last trade."""
    settings = load()
    with api_of(settings) as client:
        items = client.get("/api/v1/markets").raise_for_status().json()["items"]
        table = Table("market", "phase", "zones", "bid", "ask", "reference", "fees (bps)", box=None)
        for market in items:
            book = client.get(f"/api/v1/markets/{market['symbol']}/book?depth=1").raise_for_status().json()
            table.add_row(
                market["symbol"],
                market["phase"],
                " ".join(market["zones"]),
                book["bids"][0][0] if book["bids"] else "-",
                book["asks"][0][0] if book["asks"] else "-",
                market["reference_price"],
                f"{market['maker_fee_bps']} / {market['taker_fee_bps']}",
            )
    console.print(table)
