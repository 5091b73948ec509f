"""Fresh processes for markets and gateways of the running exchange.

After an upgrade, to have them elsewhere, or to have markets share a process or not.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

import httpx
import typer

from commands.meters import admin_of
from commands.shared import Failure, api_of, console
from config.load import load

MOVE_SECONDS_MAX: Final = 180.0
LOOK_SECONDS: Final = 0.2
FORGOTTEN_LOOKS: Final = 5  # one after the other, at which the supervisor is there and knows of no replacement

market = typer.Typer(no_args_is_help=True)
gateways = typer.Typer(no_args_is_help=True)


@market.callback()
def of_market() -> None:
    """Move a market to a fresh process."""


@gateways.callback()
def of_gateways() -> None:
    """Restart gateways, one after the other."""


@market.command()
def move(
    symbol: str,
    by_snapshot: Annotated[
        bool, typer.Option("--by-snapshot", help="The new process has an engine that cannot replay this journal.")
    ] = False,
    node: Annotated[str, typer.Option(help="Where it shall run, by Ray's id of the node.")] = "",
    shared: Annotated[
        bool | None, typer.Option("--shared/--alone", help="With other markets, or in a process of its own.")
    ] = None,
) -> None:
    """Give a market a fresh process while people trade in it: orders wait for a moment, and none is refused."""
    with admin_client() as client:
        told = _replaced(client, f"market-{symbol}", by_snapshot=by_snapshot, node=node, shared=shared)
    console.print(
        f"{symbol}: process {told['from_pid']} handed over to {told['to_pid']} at sequence {told['sequence']}; "
        f"orders waited for {told['seconds_without']:.3f} s"
    )
    if told["detail"]:
        console.print(f"[yellow]{told['detail']}[/]")


@market.command()
def renew(
    process: Annotated[str, typer.Argument(help="As the status page names it, such as markets-1.")],
    by_snapshot: Annotated[bool, typer.Option("--by-snapshot", help="As with move.")] = False,
) -> None:
    """Give all markets of a shared process a fresh one, one after the other, while people trade in them."""
    with admin_client() as client:
        told = _replaced(client, process, by_snapshot=by_snapshot)
    console.print(
        f"{process}: process {told['from_pid']} handed over to {told['to_pid']}; "
        f"orders of a market waited for at most {told['seconds_without']:.3f} s"
    )


@gateways.command()
def restart() -> None:
    """Give every gateway a fresh process; each old one finishes what it has when its successor serves."""
    with admin_client() as client:
        actors = client.get("/api/v1/admin/status").raise_for_status().json()["actors"]
        names = [actor["name"] for actor in actors if actor["name"].startswith("gateway-")]
        if not names:
            raise Failure("the supervisor does not answer")
        for name in names:
            told = _replaced(client, name)
            console.print(f"{name}: process {told['from_pid']} was replaced by {told['to_pid']}")


@contextlib.contextmanager
def admin_client() -> Iterator[httpx.Client]:
    """Somebody who may, by the password that this machine has."""
    settings = load()
    admin = admin_of(settings)
    if admin is None:
        raise Failure("no admin's password at hand: run this where the daemon runs, or set WATTBOOK_ADMIN_PASSWORD")
    with api_of(settings) as client:
        answer = client.post("/api/v1/auth/login", json={"email": admin[0], "password": admin[1]})
        if not answer.is_success:
            raise Failure(f"the admin cannot log in: {answer.json().get('detail')}")
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield client


def _replaced(
    client: httpx.Client, name: str, *, by_snapshot: bool = False, node: str = "", shared: bool | None = None
) -> Any:
    """What became of it. Raises Failure."""
    path = f"/api/v1/admin/actors/{name}/replacement"
    answer = client.post(path, json={"by_snapshot": by_snapshot, "node": node, "shared": shared})
    if not answer.is_success:
        raise Failure(f"{name}: {answer.json().get('detail')}")
    began = answer.json()["began_at"]
    deadline, forgotten = time.monotonic() + MOVE_SECONDS_MAX, 0
    while time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        try:
            answer = client.get(path)
            is_unknown = answer.status_code == httpx.codes.NOT_FOUND and _is_supervised(client)
        except httpx.TransportError:
            continue  # the gateway that we spoke to was the one that was replaced
        forgotten = forgotten + 1 if is_unknown else 0
        if forgotten >= FORGOTTEN_LOOKS:
            raise Failure(f"{name}: the supervisor began anew meanwhile; one of the two processes serves. Say it again")
        if not answer.is_success:
            continue
        told = answer.json()
        if told["began_at"] == began and told["state"] == "done":
            return told
        if told["began_at"] == began and told["state"] == "failed":
            raise Failure(f"{name} was not replaced, and serves as before: {told['detail']}")
    raise Failure(f"{name}: not done after {MOVE_SECONDS_MAX:g} s; logs/supervisor.log says more")


def _is_supervised(client: httpx.Client) -> bool:
    """Does the supervisor answer?"""
    status = client.get("/api/v1/admin/status")
    return status.is_success and bool(status.json()["supervised"])
