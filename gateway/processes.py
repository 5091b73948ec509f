"""Fresh processes for markets and gateways while they serve, asked for by admins (docs/decisions/0049).

Asking returns at once; how it goes is asked for afterwards, because a process takes seconds to start. The supervisor
does it, one at a time, and remembers the last one of each actor until it is restarted itself.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from litestar import Controller, get, post
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct, to_builtins

from engine.messages import RejectCode
from engine.views import Fault
from gateway.errors import Problem, not_found
from gateway.instants import format_instant
from gateway.requests import GatewayRequest
from gateway.wire import Instant


class ReplacementRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """by_snapshot: for an engine that cannot replay this journal; the old process leaves a snapshot at its end.

    node: where the new process shall run, by Ray's id of it; empty: where Ray finds best.
    shared: whether the market shares a process with others from then on; null: as it is.
    """

    by_snapshot: bool = False
    node: Annotated[str, Meta(pattern="^[0-9a-f]{0,64}$")] = ""
    shared: bool | None = None


class ReplacementShown(Struct, frozen=True):
    """`state`: warming, switching, done or failed. `seconds_without`: how long a market took no commands.

    `sequence`: a market's last one in its old process; `detail`: why it failed, or what did not go as it should.
    """

    actor: str
    state: str
    detail: str
    began_at: Instant
    ended_at: Instant | None
    from_pid: int
    to_pid: int
    sequence: int
    seconds_without: float


class ReplacementController(Controller):
    path = "/admin/actors/{name:str}/replacement"
    tags = ["operations"]  # noqa: RUF012 - Litestar reads it so

    @post(status_code=202)
    async def begin(
        self, request: GatewayRequest, name: FromPath[str], data: JSONBody[ReplacementRequest | None] = None
    ) -> ReplacementShown:
        """Begin to replace the process of `market-<symbol>` or `gateway-<number>`; it serves on meanwhile.

        `markets-<number>`: of all markets that share it, one after the other.
        """
        gateway, wanted = request.gateway, data if data is not None else ReplacementRequest()
        seen = await gateway.supervision()
        if seen and (name not in seen or not name.startswith(("market-", "markets-", "gateway-"))):
            raise not_found("actor")
        await gateway.audit.append(
            request.origin, "actor.replacement_asked", f"actor:{name}", None, to_builtins(wanted)
        )
        said = await gateway.processes.replace(
            name, by_snapshot=wanted.by_snapshot, node=wanted.node, shared=wanted.shared
        )
        if not said:
            raise Problem(Fault.UNAVAILABLE, "the supervisor does not answer")
        if said["state"] == "refused":
            raise Problem(RejectCode.CONFLICT, str(said["detail"]))
        return _shown(said)

    @get()
    async def find(self, request: GatewayRequest, name: FromPath[str]) -> ReplacementShown:
        """How the last one went, or goes."""
        said = (await request.gateway.processes.replacements()).get(name)
        if said is None:
            raise not_found("replacement")
        return _shown(said)


def _shown(said: Mapping[str, Any]) -> ReplacementShown:
    ended_us = said["ended_us"]
    return ReplacementShown(
        actor=said["actor"],
        state=said["state"],
        detail=said["detail"],
        began_at=format_instant(said["began_us"]),
        ended_at=None if ended_us is None else format_instant(ended_us),
        from_pid=said["from_pid"],
        to_pid=said["to_pid"],
        sequence=said["sequence"],
        seconds_without=said["seconds_without"],
    )
