"""The life of an effect that the chain must have exactly once: a pure state machine. Source: docs/chain.md.

    queued --taken--> built --signed, bytes kept--> signed --handed over--> sent --> confirmed --> finalized
      ^                 |                                      |             |
      |   not now, or   |                        last height   |    a fork   |
      +---refused-------+                        is final, and | dropped it  |
      |                                          it is absent  v  (sent again)
    parked <-- permanent, or too often <-- failed, expired (looked at, then built anew)

Rules: one set of signed bytes at a time. They are sent again until they land, or until no block that is not final can
hold them any more and a last look says that they are in none. Before anything is signed the chain is asked whether the
effect is there already. That an endpoint took bytes, or was silent, says nothing. Several effects may share a
transaction; if it is refused, each half is tried by itself, until the one that is to blame is alone.
"""

from enum import IntEnum, StrEnum
from typing import Any, Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from engine.settlement.netting import USER
from engine.units import TimeUs

SETTLE: Final = "settle"  # the kind of a part of a settlement, see engine/settlement/netting.py
TOGETHER_MAX: Final = 32  # effects in one transaction, before its size says less
REFUSALS_MAX: Final = 12  # in a row, then it is parked
DELAY_US_MIN: Final = 500_000
DELAY_US_MAX: Final = 60_000_000
WAIT_US_MAX: Final = 10_000_000  # of one that only waits for something else


class State(StrEnum):
    QUEUED = "queued"
    BUILT = "built"
    SIGNED = "signed"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FINALIZED = "finalized"
    FAILED = "failed"
    EXPIRED = "expired"
    PARKED = "parked"


FREE: Final = (State.QUEUED, State.FAILED, State.EXPIRED)  # whoever comes may take it
UNDER_WAY: Final = (State.BUILT, State.SIGNED, State.SENT)  # counts against its lane's bound
OPEN: Final = (*FREE, *UNDER_WAY, State.CONFIRMED)  # will still change by itself


class Level(IntEnum):
    """How sure it is that a block stays."""

    PROCESSED = 1
    CONFIRMED = 2
    FINALIZED = 3


class Submission(Struct, frozen=True, kw_only=True):
    """signature: of the bytes that count now; "" while none do, and for an effect that was found to be there.

    last_height: the last block height at which those bytes can land; of an effect that was found, the height at which
    it was. refusals, waits: in a row. together_max: how many effects may share its transaction.
    """

    state: State = State.QUEUED
    attempt: int = 0
    signature: str = ""
    last_height: int = 0
    refusals: int = 0
    waits: int = 0
    together_max: int = TOGETHER_MAX
    reason: str = ""


# --- what is learnt about it ---


class Taken(Struct, frozen=True):
    """A submitter has taken it, to look and to build."""


class Found(Struct, frozen=True):
    """The effect is on the chain, as the chain is now; `height_final`: up to where it stays."""

    height: int
    height_final: int


class Missing(Struct, frozen=True):
    """An effect that was found is not there any more."""


class Signed(Struct, frozen=True):
    signature: str
    last_height: int


class HandedOver(Struct, frozen=True):
    """Given to an endpoint, whatever it answered."""


class Seen(Struct, frozen=True):
    """The status of its signature. `together`: how many effects share the transaction."""

    level: Level
    error: str = ""
    permanent: bool = False
    together: int = 1


class Absent(Struct, frozen=True):
    """No block has the signature; told by one that knows all blocks up to `height_final`."""

    height_final: int


class NotNow(Struct, frozen=True):
    """Something must happen first: the chain is paused or away, an account or a balance is not there yet."""

    reason: str


class Refused(Struct, frozen=True):
    """It was not signed, because it would fail."""

    reason: str
    permanent: bool
    together: int = 1


class Retried(Struct, frozen=True):
    """An admin wants it tried again."""


class Parked(Struct, frozen=True):
    """An admin wants it left alone."""

    reason: str


Learnt: TypeAlias = Taken | Found | Missing | Signed | HandedOver | Seen | Absent | NotNow | Refused | Retried | Parked


class NotSo(Exception):
    """This cannot be learnt in this state: whoever says it is mistaken about the state."""


def step(now: Submission, learnt: Learnt) -> Submission:
    """What it is afterwards; the same object when nothing changes. Raises NotSo."""
    state = now.state
    match learnt:
        case Taken() if state in FREE:
            return replace(now, state=State.BUILT)
        case Found() if state is State.BUILT:
            return replace(now, state=State.CONFIRMED, signature="", last_height=learnt.height, reason="")
        case Found() if state is State.CONFIRMED and not now.signature:
            return replace(now, state=State.FINALIZED) if learnt.height_final >= now.last_height else now
        case Missing() if state is State.CONFIRMED and not now.signature:
            return replace(now, state=State.QUEUED, last_height=0)
        case Signed() if state is State.BUILT:
            signed = replace(now, state=State.SIGNED, signature=learnt.signature, last_height=learnt.last_height)
            return replace(signed, attempt=now.attempt + 1, waits=0, reason="")
        case HandedOver() if state is State.SIGNED:
            return replace(now, state=State.SENT)
        case HandedOver() if state is State.SENT:
            return now
        case Seen() if now.signature and state in (State.SIGNED, State.SENT, State.CONFIRMED):
            return _seen(now, learnt)
        case Absent() if now.signature and state in (State.SIGNED, State.SENT, State.CONFIRMED):
            if learnt.height_final > now.last_height:
                return _again(now, State.EXPIRED, "its blockhash is too old, and no block has it")
            return replace(now, state=State.SENT) if state is State.CONFIRMED else now
        case NotNow() if state is State.BUILT:
            return replace(now, state=State.QUEUED, signature="", waits=now.waits + 1, reason=learnt.reason)
        case Refused() if state is State.BUILT:
            return _refused(now, State.QUEUED, learnt.reason, learnt.permanent, learnt.together)
        case Retried() if state is State.PARKED:
            return replace(now, state=State.QUEUED, refusals=0, waits=0, together_max=1)
        case Parked() if state in FREE:
            return replace(now, state=State.PARKED, reason=learnt.reason)
    raise NotSo(f"{type(learnt).__name__} of a submission that is {state}")


def _seen(now: Submission, seen: Seen) -> Submission:
    if not seen.error:
        match seen.level:
            case Level.FINALIZED:
                return replace(now, state=State.FINALIZED, refusals=0, reason="")
            case Level.CONFIRMED:
                return now if now.state is State.CONFIRMED else replace(now, state=State.CONFIRMED, reason="")
        return now
    if seen.level is not Level.FINALIZED:
        return now  # on another fork the same bytes may still do what they should
    return _refused(now, State.FAILED, seen.error, seen.permanent, seen.together)


def _refused(now: Submission, then: State, reason: str, permanent: bool, together: int) -> Submission:
    """Together: each half by itself. Alone: for good if it is permanent, else again."""
    if together > 1:
        return replace(now, state=then, signature="", together_max=together // 2, reason=reason)
    if permanent:
        return replace(now, state=State.PARKED, signature="", reason=reason)
    return _again(now, then, reason)


def _again(now: Submission, then: State, reason: str) -> Submission:
    """The signature is forgotten: its bytes can have no effect any more."""
    refusals = now.refusals + 1
    state = then if refusals < REFUSALS_MAX else State.PARKED
    return replace(now, state=state, signature="", refusals=refusals, reason=reason)


def delay_us(submission: Submission, jitter: float) -> int:
    """How long one that was not done waits; `jitter` in [0, 1) keeps those that failed together apart."""
    times = max(submission.refusals, submission.waits)
    if submission.together_max < TOGETHER_MAX and times == 0:
        return 0  # a half of what was refused together
    longest = min(DELAY_US_MIN * 2 ** min(times, 20), DELAY_US_MAX if submission.refusals else WAIT_US_MAX)
    return int(longest * (0.5 + jitter / 2))


# --- what passes between tables, actors and the chain ---


class ChainDown(Exception):
    """No endpoint answers: what was asked for may have happened or not."""


class Effect(Struct, frozen=True, kw_only=True):
    """What the chain must have once: `kind` and `key` name it for ever.

    payload: as its cause wrote it. user_id 0: nobody's. account: his address on the chain, "" while he has none;
    accounts: those of others that it is about. serial: of the meter that it is about.
    """

    number: int
    kind: str
    key: str
    lane: str
    payload: dict[str, Any]
    user_id: int = 0
    account: str = ""
    accounts: dict[int, str] = {}
    serial: str = ""
    submission: Submission = Submission()
    raw: bytes = b""


def others(effect: Effect) -> list[int]:
    """Further people whose accounts it needs: those of a part of a settlement."""
    if effect.kind != SETTLE:
        return []
    names = [delta["account"] for delta in effect.payload["deltas"]]
    return [int(name.removeprefix(USER)) for name in names if name.startswith(USER)]


class Change(Struct, frozen=True):
    """From what a row must still be, to what it is then. raw: the signed bytes, when they are new."""

    effect: Effect
    after: Submission
    raw: bytes = b""
    due_us: TimeUs = 0
    slot: int = 0


class Packed(Struct, frozen=True):
    """One signed transaction and the effects that it has, by their numbers."""

    numbers: tuple[int, ...]
    raw: bytes
    signature: str
    last_height: int


class Declined(Struct, frozen=True):
    """These were not signed: together, for this reason."""

    numbers: tuple[int, ...]
    why: NotNow | Refused


class Status(Struct, frozen=True):
    """What a block says of a signature; error "" for success."""

    level: Level
    slot: int
    error: str = ""
    permanent: bool = False


class Statuses(Struct, frozen=True):
    """In the order of the signatures, None for one that no block has; all as known at `height_final`.

    slot_final: the newest slot that is final; what was seen in a later one needs no look yet.
    """

    height_final: int
    slot_final: int
    found: list[Status | None]


class Governance(Struct, frozen=True):
    """authority: who may pause, name operators and propose another authority; ours: its key is one of our own."""

    authority: str
    proposed: str
    ours: bool
    paused: bool


class Holdings(Struct, frozen=True):
    """Where a participant's tokens are: base58 addresses."""

    account: str
    vault: str
    energy: str
    currency: str


class ChainEvent(Struct, frozen=True):
    """An event of one of our programs. (signature, instruction, index) is its name for ever; fields as JSON values:
    addresses in base58, bytes in hex.
    """

    signature: str
    instruction: int
    index: int
    slot: int
    program: str
    name: str
    fields: dict[str, Any]


class Mention(Struct, frozen=True):
    """A transaction in a program's list."""

    signature: str
    slot: int
    failed: bool


# --- what people and admins are shown ---


class SubmissionRecord(Struct, frozen=True):
    """A row of the table as it is shown. user_id 0: nobody's."""

    number: int
    kind: str
    key: str
    lane: str
    user_id: int
    state: str
    attempt: int
    signature: str
    slot: int
    reason: str
    created_us: TimeUs
    changed_us: TimeUs


class WithdrawalRecord(Struct, frozen=True):
    """state: of its submission; done_us None: still in custody."""

    withdrawal_id: str
    user_id: int
    asset: str
    amount: int
    address: str
    state: str
    signature: str
    created_us: TimeUs
    done_us: TimeUs | None


class PendingDeposit(Struct, frozen=True):
    """Seen on the chain and not final yet. energy: of the owner's zone, else money."""

    signature: str
    instruction: int
    index: int
    is_energy: bool
    amount: int
    seen_us: TimeUs


class PartReport(Struct, frozen=True):
    """What an actor of the chain last said of itself, and when."""

    at_us: TimeUs
    said: dict[str, Any]


class ChainOff(Exception):
    """Nothing leaves: there is no chain, it is paused, or nobody knows."""


class TooLittle(Exception):
    """The main account holds less than that."""


class NotLinked(Exception):
    """The address is no wallet that this person has proven to be his."""


class Underway(Exception):
    """It may land at any moment, or has: it can neither be parked nor tried again."""
