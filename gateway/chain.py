"""The chain as people and admins see it: how it is, what it was told, withdrawals to a wallet, tokens in a vault.

Nothing here waits for the chain but the question for tokens: a withdrawal is answered when the ledger has it.
"""

import re
from collections.abc import Awaitable
from typing import Annotated, Any, Final, Literal
from uuid import uuid4

from litestar import Controller, get, post
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct
from solders.pubkey import Pubkey

from engine.messages import RejectCode
from engine.settlement.reconciliation import BooksDiffer, Compared
from engine.submission import (
    ChainDown,
    ChainOff,
    NotLinked,
    PartReport,
    State,
    SubmissionRecord,
    TooLittle,
    Underway,
    WithdrawalRecord,
)
from engine.units import FOREVER_US, SECOND_US
from engine.views import Fault
from gateway.accounts import ENERGY
from gateway.decimals import format_energy, format_money, parse_energy_amount, parse_money
from gateway.errors import GatewayCode, Problem, invalid, not_found
from gateway.instants import format_instant
from gateway.permissions import ADMIN
from gateway.requests import LIMIT_DEFAULT, Cursor, GatewayRequest, Limit, Page, cursor_of, parse_cursor
from gateway.wallets import Base58
from gateway.wire import Instant, show_amount

STALE_US: Final = 15 * SECOND_US  # of what an actor said of itself: then nobody knows
SUBMITTER, LISTENER = "submitter", "listener"
_KIND: Final = re.compile(r"[a-z_]{1,32}", re.ASCII)
CIRCUITS: Final = ("closed", "half_open", "open")


class Endpoint(Struct, frozen=True):
    host: str
    circuit: str


class GovernanceState(Struct, frozen=True):
    """Who has the authority over the programs. `ours`: its key is the exchange's; else pauses are not ours to ask."""

    authority: str
    proposed: str | None
    ours: bool


class BookDifference(Struct, frozen=True):
    """In Wh or millionths of the currency. `stops`: withdrawals wait until it is gone."""

    what: str
    asset: str
    expected: int
    found: int
    stops: bool


class Reconciliation(Struct, frozen=True):
    """What the last comparison of books and chain found. `details`: for admins, the first hundred."""

    at: Instant
    differences: int
    withdrawals_suspended: bool
    details: list[BookDifference]


class ChainStatus(Struct, frozen=True):
    """`state`: up, paused, down (an actor is silent, or waits), off (there is none). `queues`: lane, state, count."""

    state: Literal["up", "paused", "down", "off"]
    detail: str
    endpoints: list[Endpoint]
    slot: int
    slot_final: int
    lag_slots: int
    queues: dict[str, dict[str, int]]
    lamports: dict[str, int]
    governance: GovernanceState | None
    reconciliation: Reconciliation | None


class ChainTransaction(Struct, frozen=True):
    """An effect that the chain must have once, and how far it is."""

    id: str
    kind: str
    key: str
    lane: str
    user_id: str | None
    status: str
    attempts: int
    signature: str | None
    slot: int | None
    reason: str | None
    created_at: Instant
    updated_at: Instant


class ParkRequest(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(min_length=1, max_length=200)]


class ProposalRequest(Struct, frozen=True, forbid_unknown_fields=True):
    address: Base58


class WithdrawalRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`asset`: the currency code, or `energy:<zone>` with the amount in kWh. `address`: of one's own linked wallet."""

    asset: str
    amount: str
    address: Base58


class Withdrawal(Struct, frozen=True):
    """`status`: that of its transaction; it is done when this is `finalized`."""

    withdrawal_id: str
    asset: str
    amount: str
    address: str
    status: str
    signature: str | None
    created_at: Instant
    done_at: Instant | None


class Tokens(Struct, frozen=True):
    """What one's vault on the chain holds now; trades come there with their settlement. Without an account: nothing."""

    address: str | None
    vault: str | None
    energy: str
    currency: str


class ChainController(Controller):
    path = "/"
    tags = ["chain"]  # noqa: RUF012 - Litestar reads it so

    @get("/chain/status")
    async def status(self, request: GatewayRequest) -> ChainStatus:
        """Endpoints with their circuits, how far behind we read, and what waits in which lane."""
        return await chain_status(request)

    @get("/chain/transactions")
    async def transactions(
        self,
        request: GatewayRequest,
        kind: FromQuery[str | None] = None,
        status: FromQuery[str | None] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[ChainTransaction]:
        """One's own, newest first; an admin sees everybody's."""
        if status is not None and status not in set(State):
            raise invalid("status", f"must be one of {', '.join(State)}")
        if kind is not None and not _KIND.fullmatch(kind):
            raise invalid("kind", "must be 1 to 32 of a-z and _")
        caller, before = request.caller, parse_cursor(cursor, 1)
        owner = None if caller.role == ADMIN else caller.user_id
        rows = await request.gateway.chain.submissions(owner, kind, status, before[0] if before else FOREVER_US, limit)
        return Page([_show(row) for row in rows], cursor_of(rows[-1].number) if len(rows) == limit else None)

    @get("/chain/transactions/{id:str}")
    async def transaction(self, request: GatewayRequest, id: FromPath[str]) -> ChainTransaction:  # noqa: A002
        """One of one's own; an admin may see any."""
        row = await request.gateway.chain.submission(_number(id))
        if row is None or (request.caller.role != ADMIN and row.user_id != request.caller.user_id):
            raise not_found("transaction")
        return _show(row)

    @post("/chain/transactions/{id:str}/retry", status_code=200)
    async def retry(self, request: GatewayRequest, id: FromPath[str]) -> ChainTransaction:  # noqa: A002
        """Put a parked one back into its queue; it is looked for on the chain before anything is signed."""
        gateway = request.gateway
        return _changed(await _wished(gateway.chain.retry(_number(id), gateway.clock(), request.origin)))

    @post("/chain/transactions/{id:str}/park", status_code=200)
    async def park(self, request: GatewayRequest, id: FromPath[str], data: JSONBody[ParkRequest]) -> ChainTransaction:  # noqa: A002
        """Leave one alone that is not under way, until it is retried."""
        gateway = request.gateway
        if not data.reason.isprintable():
            raise invalid("reason", "must be one line of text")
        return _changed(await _wished(gateway.chain.park(_number(id), data.reason, gateway.clock(), request.origin)))

    @post("/chain/governance/pause", status_code=202)
    async def pause(self, request: GatewayRequest) -> ChainTransaction:
        """Have mints, settlements and withdrawals stop on the chain; trading goes on."""
        return await _govern(request, "pause")

    @post("/chain/governance/unpause", status_code=202)
    async def unpause(self, request: GatewayRequest) -> ChainTransaction:
        """Let them go on."""
        return await _govern(request, "unpause")

    @post("/chain/governance/propose", status_code=202)
    async def propose(self, request: GatewayRequest, data: JSONBody[ProposalRequest]) -> ChainTransaction:
        """Offer the authority over the programs to another key, which has it when it has accepted on the chain."""
        try:
            heir = Pubkey.from_string(data.address)  # a program may stand behind it, as that of a multisig
        except ValueError:
            raise invalid("address", "is no base58 Solana address") from None
        if heir == Pubkey.default():
            raise invalid("address", "is nobody's")
        return await _govern(request, "propose", str(heir))

    @post("/chain/governance/accept", status_code=202)
    async def accept(self, request: GatewayRequest) -> ChainTransaction:
        """Take the authority back that somebody has offered to the exchange's own key."""
        return await _govern(request, "accept")

    @get("/chain/tokens")
    async def tokens(self, request: GatewayRequest) -> Tokens:
        """What one's vault holds, as the chain says at this moment."""
        gateway = request.gateway
        holdings = await gateway.chain.holdings(request.caller.user_id)
        if holdings is None:
            return Tokens(None, None, format_energy(0), format_money(0))
        try:
            energy_wh, currency_micro = await gateway.chain.tokens(holdings)
        except ChainDown as error:
            raise Problem(Fault.UNAVAILABLE, "the chain does not answer") from error
        return Tokens(holdings.account, holdings.vault, format_energy(energy_wh), format_money(currency_micro))

    @post("/withdrawals", status_code=202)
    async def withdraw(self, request: GatewayRequest, data: JSONBody[WithdrawalRequest]) -> Withdrawal:
        """To one's own linked wallet, out of the balance at once. An `Idempotency-Key` makes it repeatable."""
        gateway, user_id = request.gateway, request.caller.user_id
        currency = gateway.settings.currency
        if data.asset == currency:
            amount = parse_money(data.amount, "amount")
        elif data.asset in {f"{ENERGY}{zone.zone_id}" for zone in await gateway.catalogue.zones()}:
            amount = parse_energy_amount(data.amount, "amount")
        else:
            raise invalid("asset", f"must be {currency} or {ENERGY}<zone>")
        state, detail = _state(await gateway.chain.parts(), gateway.clock())
        if state != "up":
            raise Problem(GatewayCode.WITHDRAWAL_SUSPENDED, f"the chain is {state}: {detail or 'see /chain/status'}")
        compared = await gateway.chain.compared()
        if compared is not None and compared.stops:
            raise Problem(GatewayCode.WITHDRAWAL_SUSPENDED, "books and chain differ; an admin must look")
        reference = f"withdrawal:{user_id}:{request.idempotency_key or uuid4().hex}"
        order = (user_id, data.asset, amount, data.address, reference, gateway.clock(), request.origin)
        try:
            row = await gateway.chain.withdraw(*order)
        except NotLinked:
            raise invalid("address", "must be a wallet that you have linked") from None
        except TooLittle:
            code = RejectCode.INSUFFICIENT_FUNDS if data.asset == currency else RejectCode.INSUFFICIENT_ENERGY
            raise Problem(code, "the main account holds less than that") from None
        return _show_withdrawal(row, currency)

    @get("/withdrawals")
    async def withdrawals(
        self, request: GatewayRequest, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[Withdrawal]:
        """One's own withdrawals, newest first."""
        gateway, before = request.gateway, parse_cursor(cursor, 1)
        rows = await gateway.chain.withdrawals(request.caller.user_id, before[0] if before else FOREVER_US, limit)
        items = [_show_withdrawal(row, gateway.settings.currency) for row, _ in rows]
        return Page(items, cursor_of(rows[-1][1]) if len(rows) == limit else None)


async def chain_status(request: GatewayRequest) -> ChainStatus:
    chain = request.gateway.chain
    parts = await chain.parts()
    state, detail = _state(parts, request.gateway.clock())
    submitter = parts[SUBMITTER].said if SUBMITTER in parts else {}
    listener = parts[LISTENER].said if LISTENER in parts else {}
    return ChainStatus(
        state=state,
        detail=detail,
        endpoints=[Endpoint(one["host"], CIRCUITS[one["circuit"]]) for one in submitter.get("endpoints", [])],
        slot=listener.get("slot", 0),
        slot_final=listener.get("slot_final", 0),
        lag_slots=listener.get("lag_slots", 0),
        queues=await chain.depths(),
        lamports=submitter.get("lamports", {}),
        governance=_show_governance(submitter.get("governance")),
        reconciliation=_show_compared(await chain.compared(), for_admin=request.caller.role == ADMIN),
    )


def _show_governance(said: dict[str, Any] | None) -> GovernanceState | None:
    return GovernanceState(said["authority"], said["proposed"] or None, said["ours"]) if said else None


def _show_compared(found: Compared | None, *, for_admin: bool) -> Reconciliation | None:
    if found is None:
        return None
    details = [BookDifference(d.what, d.asset, d.expected, d.found, d.stops) for d in found.differences]
    return Reconciliation(format_instant(found.at_us), len(details), found.stops, details if for_admin else [])


def _state(parts: dict[str, PartReport], now_us: int) -> tuple[Literal["up", "paused", "down", "off"], str]:
    """Taken together, and why."""
    if not parts:
        return "off", "there is no chain"
    for name in (SUBMITTER, LISTENER):
        part = parts.get(name)
        if part is None or now_us - part.at_us > STALE_US:
            return "down", f"the {name} is silent"
        if part.said.get("state") != "serving":
            return "down", f"the {name} is {part.said.get('state')}: {part.said.get('detail', '')}"
    return ("paused", "governance has paused it") if parts[SUBMITTER].said.get("paused") else ("up", "")


def probe_of(parts: dict[str, PartReport], now_us: int) -> None:
    """For health: a chain that is paused is up. Raises ChainOff."""
    state, detail = _state(parts, now_us)
    if state == "down":
        raise ChainOff(detail)


def probe_of_books(compared: Compared | None) -> None:
    """For health. Raises BooksDiffer."""
    if compared is not None and compared.differences:
        first = compared.differences[0]
        raise BooksDiffer(f"{len(compared.differences)} differences between books and chain, the first: {first.what}")


async def _govern(request: GatewayRequest, action: str, address: str | None = None) -> ChainTransaction:
    gateway = request.gateway
    if not await gateway.chain.parts():
        raise Problem(RejectCode.CONFLICT, "there is no chain")
    return _show(await gateway.chain.govern(action, address, gateway.clock(), request.origin))


async def _wished(change: Awaitable[SubmissionRecord | None]) -> SubmissionRecord | None:
    try:
        return await change
    except Underway as error:
        raise Problem(RejectCode.CONFLICT, str(error)) from None


def _changed(row: SubmissionRecord | None) -> ChainTransaction:
    if row is None:
        raise not_found("transaction")
    return _show(row)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise not_found("transaction")
    return int(text)


def _show(row: SubmissionRecord) -> ChainTransaction:
    return ChainTransaction(
        id=str(row.number),
        kind=row.kind,
        key=row.key,
        lane=row.lane,
        user_id=str(row.user_id) if row.user_id else None,
        status=row.state,
        attempts=row.attempt,
        signature=row.signature or None,
        slot=row.slot or None,
        reason=row.reason or None,
        created_at=format_instant(row.created_us),
        updated_at=format_instant(row.changed_us),
    )


def _show_withdrawal(row: WithdrawalRecord, currency: str) -> Withdrawal:
    return Withdrawal(
        withdrawal_id=row.withdrawal_id,
        asset=row.asset,
        amount=show_amount(row.asset, row.amount, currency),
        address=row.address,
        status=row.state,
        signature=row.signature or None,
        created_at=format_instant(row.created_us),
        done_at=format_instant(row.done_us) if row.done_us is not None else None,
    )
