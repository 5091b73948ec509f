"""What the gateway asks of the rest of the exchange. The daemon hands in the real ones; tests hand in small ones.

Rows are the Structs of engine/records.py and engine/views.py; amounts are integers, instants microseconds. A method
that takes an `origin` writes a row of the audit log in the transaction of its change. What analytics ask for stands in
analytics_ports.py.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from engine.audit import AuditRow, Origin
from engine.market import MarketSpec, Path, Phase
from engine.messages import Command
from engine.metering.messages import Judged, Signed
from engine.metering.records import (
    EnergyStep,
    EnergySums,
    MeterChange,
    MeterRecord,
    NewMeter,
    PostedWindow,
    ShownReading,
    StoredWindow,
)
from engine.records import (
    AccountBalance,
    ApiKeyRecord,
    CandleRecord,
    CapacityRecord,
    CostRecord,
    DepositRecord,
    DirectoryPerson,
    EpochRecord,
    FirstAnswer,
    Holding,
    LedgerLine,
    MakerRecord,
    NewRecurring,
    OwnLimits,
    PositionRecord,
    RecurringRecord,
    RewardRecord,
    RiskRecord,
    RotateOutcome,
    SessionRecord,
    StatsRecord,
    StoredFill,
    StoredOrder,
    TrialLine,
    UserRecord,
    WalletRecord,
    ZoneRecord,
)
from engine.views import Answer, BookView, Failed, Feed, Query, TradeView
from gateway.analytics_ports import Analytics, Rates

Clock: TypeAlias = Callable[[], int]  # microseconds UTC; somebody may set it, ahead and back
Elapsed: TypeAlias = Callable[[], int]  # microseconds since some instant, whatever is done to clocks
Probe: TypeAlias = Callable[[], Awaitable[None]]  # returns when a dependency works, raises when it does not
FeedListener: TypeAlias = Callable[[BookView | Feed | None], None]


class People(Protocol):
    async def create(
        self, email: str, name: str, password_hash: bytes, role: str, zone: str, now_us: int, origin: Origin
    ) -> UserRecord: ...

    async def by_email(self, email: str) -> UserRecord | None: ...

    async def by_id(self, user_id: int) -> UserRecord | None: ...

    async def update(
        self,
        user_id: int,
        *,
        name: str | None = None,
        role: str | None = None,
        status: str | None = None,
        zone: str | None = None,
        now_us: int,
        origin: Origin,
    ) -> UserRecord | None:
        """A change of role or status ends the user's sessions. Raises LastAdmin."""
        ...

    async def admit(self, person: DirectoryPerson, zone: str, now_us: int, origin: Origin) -> UserRecord:
        """The account of somebody whom the directory knows, made or brought up to date.

        Raises EmailTaken for a new account, LastAdmin for one that nobody could replace.
        """
        ...

    async def set_password(
        self, user_id: int, password_hash: bytes, keep_session_id: str, now_us: int, origin: Origin
    ) -> None:
        """Ends the user's other sessions."""
        ...

    async def search(
        self, text: str, after_id: int, limit: int, role: str | None, status: str | None
    ) -> list[UserRecord]: ...

    async def open_session(
        self, session_id: str, user: UserRecord, refresh_hash: bytes, now_us: int, expires_us: int, origin: Origin
    ) -> bool:
        """False when the user is not any more what he was when he was looked at."""
        ...

    async def rotate_session(
        self, session_id: str, old_hash: bytes, new_hash: bytes, now_us: int, expires_us: int, origin: Origin
    ) -> RotateOutcome: ...

    async def end_session(self, session_id: str, now_us: int, user_id: int | None, origin: Origin) -> bool:
        """False when there is no such session, or it is not this user's; None: whosever it is."""
        ...

    async def end_sessions(self, user_id: int, now_us: int, except_id: str, origin: Origin) -> list[str]: ...

    async def sessions(self, user_id: int) -> list[SessionRecord]: ...

    async def ended_sessions(self, since_us: int) -> list[str]: ...

    async def add_login_failure(
        self, key: str, user_id: int | None, now_us: int, window_us: int, failures_max: int, origin: Origin
    ) -> int: ...

    async def login_failures(self, key: str, now_us: int) -> tuple[int, int]:
        """(how many, when they are forgotten), or (0, 0)."""
        ...

    async def forget_login_failures(self, key: str) -> None: ...

    async def unlock(self, user_id: int, key: str, origin: Origin) -> None: ...


class ApiKeys(Protocol):
    async def create(self, key: ApiKeyRecord, keys_max: int, origin: Origin) -> ApiKeyRecord:
        """Raises TooManyKeys."""
        ...

    async def by_id(self, key_id: str) -> ApiKeyRecord | None: ...

    async def of_user(self, user_id: int) -> list[ApiKeyRecord]: ...

    async def of_head_ends(self) -> list[ApiKeyRecord]: ...

    async def remove(self, key_id: str, user_id: int | None, origin: Origin) -> bool:
        """False when this user, or no head-end when None, has no such key."""
        ...

    async def note_uses(self, uses: dict[str, int]) -> None: ...


class AuditLog(Protocol):
    async def append(
        self,
        origin: Origin,
        action: str,
        subject: str,
        before: Mapping[str, object] | None = None,
        after: Mapping[str, object] | None = None,
    ) -> None: ...

    async def find(
        self,
        before_number: int,
        limit: int,
        *,
        actor: str | None,
        action: str | None,
        subject: str | None,
        from_us: int | None,
        to_us: int | None,
    ) -> list[AuditRow]:
        """Newest first."""
        ...


class Directory(Protocol):
    """Somebody else's list of people. Raises DirectoryDown when nobody can tell."""

    async def check(self, name: str, password: str | None) -> DirectoryPerson | None:
        """None for every kind of no. Without a password it takes the same steps and is always None."""
        ...

    async def find(self, directory_id: bytes) -> DirectoryPerson | None: ...


class Wallets(Protocol):
    """Errors are those of engine/records.py: AddressTaken, ChallengeGone, PlatformWalletKept, WalletsFull."""

    async def put_challenge(
        self, user_id: int, address: str, challenge: str, now_us: int, expires_us: int, open_max: int
    ) -> None: ...

    async def challenge(self, user_id: int, address: str, now_us: int) -> str | None: ...

    async def link(
        self, user_id: int, address: str, challenge: str, now_us: int, wallets_max: int, origin: Origin
    ) -> WalletRecord: ...

    async def wallets(self, user_id: int) -> list[WalletRecord]: ...

    async def make_primary(self, user_id: int, address: str, origin: Origin) -> WalletRecord | None: ...

    async def remove(self, user_id: int, address: str, origin: Origin) -> bool: ...


class Vault(Protocol):
    """Keeps the secrets of platform wallets. The gateway can ask for a new one, and for none of them."""

    async def make(self, user_id: int, now_us: int, wallets_max: int, origin: Origin) -> WalletRecord: ...


class Catalogue(Protocol):
    async def create_market(
        self, spec: MarketSpec, phase: Phase, now_us: int, origin: Origin, *, shared: bool
    ) -> MarketSpec: ...

    async def update_market(self, spec: MarketSpec, origin: Origin) -> None: ...

    async def markets(self) -> list[MarketSpec]: ...

    async def zones(self) -> list[ZoneRecord]: ...

    async def put_zones(self, zones: list[ZoneRecord], origin: Origin) -> None: ...

    async def costs(self) -> list[CostRecord]: ...

    async def put_costs(self, costs: list[CostRecord], now_us: int, origin: Origin) -> None: ...

    async def capacities(self) -> list[CapacityRecord]: ...

    async def put_capacities(self, capacities: list[CapacityRecord], origin: Origin) -> None: ...

    async def paths(self, zones: tuple[str, ...], now_us: int) -> tuple[Path, ...]: ...


class Ledger(Protocol):
    async def deposit(
        self, participant_id: int, asset: str, amount: int, reference: str, time_us: int, origin: Origin
    ) -> DepositRecord: ...

    async def deposits(self, participant_id: int, before_id: int, limit: int) -> list[DepositRecord]: ...

    async def balances(self, participant_id: int) -> list[AccountBalance]: ...

    async def holdings(self, participant_id: int) -> list[Holding]: ...

    async def lines(self, participant_id: int, before_id: int, limit: int) -> list[LedgerLine]: ...

    async def trial_balance(self) -> list[TrialLine]: ...


class History(Protocol):
    async def cursor(self, market_ids: list[int]) -> dict[int, int]: ...

    async def orders(
        self,
        participant_id: int,
        market_id: int | None,
        statuses: tuple[int, ...],
        from_us: int,
        to_us: int,
        before: tuple[int, int, int] | None,
        limit: int,
    ) -> list[StoredOrder]: ...

    async def order(self, market_id: int, order_id: int, participant_id: int) -> StoredOrder | None: ...

    async def order_by_client_id(
        self, market_id: int, participant_id: int, client_order_id: str
    ) -> StoredOrder | None: ...

    async def fills(
        self, participant_id: int, market_id: int | None, before: tuple[int, int, int] | None, limit: int
    ) -> list[StoredFill]: ...

    async def fills_of_orders(
        self, participant_id: int, orders: Sequence[tuple[int, int]], limit: int
    ) -> list[StoredFill]:
        """Oldest first; orders are (market_id, order_id)."""
        ...

    async def trades(self, market_id: int, before_number: int, limit: int) -> list[TradeView]: ...

    async def candles(
        self, market_id: int, seconds: int, from_us: int, to_us: int, limit: int
    ) -> list[CandleRecord]: ...

    async def positions(
        self,
        participant_id: int,
        market_id: int | None,
        from_us: int,
        to_us: int,
        before: tuple[int, int] | None,
        limit: int,
    ) -> list[PositionRecord]:
        """Newest epoch first; `before` is the (epoch_start_us, market_id) of the last one that was seen."""
        ...

    async def stats(self, market_id: int, since_us: int) -> StatsRecord: ...

    async def epochs(self, market_id: int, before_start_us: int, limit: int) -> list[EpochRecord]: ...

    async def epoch(self, market_id: int, start_us: int) -> EpochRecord | None: ...

    async def certificate(self, market_id: int, start_us: int) -> bytes | None: ...


class FirstAnswers(Protocol):
    """What writes with an Idempotency-Key were answered; repeats.py says what for."""

    async def claim(
        self, caller_id: int, key: str, fingerprint: bytes, began_us: int, expires_us: int
    ) -> FirstAnswer | None:
        """None: the key is this request's. Else the request that had it first. Raises TooManyFirstAnswers."""
        ...

    async def keep(
        self, caller_id: int, key: str, began_us: int, status: int, media_type: str, body: bytes | None
    ) -> None:
        """`body` None: too large."""
        ...

    async def release(self, caller_id: int, key: str, began_us: int) -> None: ...


class Markets(Protocol):
    """The market actors. Refusals are answers. Per market, what these calls send keeps the order of the calls."""

    def submit(self, market_id: int, command: Command) -> Awaitable[Answer]: ...

    def submit_many(self, market_id: int, commands: Sequence[Command]) -> Awaitable[list[Answer]]: ...

    def ask(self, market_id: int, query: Query) -> Awaitable[Answer]: ...

    def watch(self, market_id: int, participants: frozenset[int], book: bool, listener: FeedListener) -> None: ...

    def markets(self) -> Mapping[str, MarketSpec]: ...

    async def known(self) -> None:
        """Return when it is known which markets there are: until then there seem to be none."""
        ...


class Risk(Protocol):
    """Limits and blocks of participants. None: there is no such user."""

    async def of_user(self, user_id: int) -> RiskRecord: ...

    async def put(self, user_id: int, limits: Mapping[int, OwnLimits], origin: Origin) -> RiskRecord | None: ...

    async def block(self, user_id: int, reason: str, now_us: int, origin: Origin) -> RiskRecord | None: ...

    async def release(self, user_id: int, origin: Origin) -> RiskRecord | None: ...

    async def rates(self) -> dict[tuple[int, int], int]:
        """Messages per second by (market, participant) of those who have limits of their own; 0: no limit."""
        ...


class Recurring(Protocol):
    """Raises TooManyRecurring. None: the user has no such rule."""

    async def add(self, new: NewRecurring, now_us: int, origin: Origin) -> RecurringRecord: ...

    async def page(self, user_id: int, before_id: int, limit: int) -> list[RecurringRecord]: ...

    async def one(self, recurring_id: int, user_id: int) -> RecurringRecord | None: ...

    async def stop(self, recurring_id: int, user_id: int, origin: Origin) -> RecurringRecord | None: ...


class Makers(Protocol):
    """The market maker programme."""

    async def of_market(self, market_id: int) -> list[MakerRecord]: ...

    async def put(self, maker: MakerRecord, origin: Origin) -> MakerRecord | None:
        """None: there is no such user. Who was a maker already is one since then."""
        ...

    async def remove(self, market_id: int, user_id: int, origin: Origin) -> bool:
        """False: he was none."""
        ...

    async def rewards(
        self,
        user_id: int | None,
        market_id: int | None,
        from_us: int,
        to_us: int,
        before: tuple[int, int, int],
        limit: int,
    ) -> list[RewardRecord]:
        """Newest epoch first; `before` is the (epoch_start_us, market_id, user_id) of the last one that was seen."""
        ...


class Meters(Protocol):
    """Errors are those of engine/metering/records.py."""

    async def register(self, meter: NewMeter, owner_id: int, now_us: int, origin: Origin) -> MeterRecord: ...

    async def by_id(self, meter_id: bytes) -> MeterRecord | None: ...

    async def by_ids(self, meter_ids: Collection[bytes]) -> list[MeterRecord]: ...

    async def by_serials(self, serials: Collection[str]) -> list[MeterRecord]: ...

    async def of_owner(self, owner_id: int, after_number: int, limit: int) -> list[MeterRecord]: ...

    async def change(self, meter_id: bytes, change: MeterChange, now_us: int, origin: Origin) -> MeterRecord: ...

    async def assign(
        self, meter_id: bytes, owner_id: int, zone: str, valid_from_us: int, now_us: int, origin: Origin
    ) -> MeterRecord: ...


class Readings(Protocol):
    """The meter aggregators. Verdicts come in the order of the readings."""

    async def submit(self, submitter: int, readings: Sequence[Signed], vouched: bool) -> Judged | Failed: ...

    async def submit_batch(self, signed: bytes) -> Judged | Failed:
        """The same for plain intervals of a head-end's own meters, in the very bytes that it has signed."""
        ...

    def listen(self, listener: Callable[[list[PostedWindow]], None]) -> None: ...


class EnergyHistory(Protocol):
    async def readings(
        self, meter: int, from_us: int, to_us: int, known_us: int, after: tuple[int, int, int], limit: int
    ) -> list[ShownReading]: ...

    async def series(
        self, meter: int, from_us: int, to_us: int, known_us: int, seconds: int, limit: int
    ) -> list[EnergyStep]: ...

    async def windows(
        self, owner_id: int, from_us: int, to_us: int, before: tuple[int, int], limit: int, known_us: int
    ) -> list[tuple[StoredWindow, int]]: ...

    async def sums(self, owner_id: int, from_us: int, to_us: int, known_us: int) -> EnergySums: ...


class Metering(NamedTuple):
    """Everything about meters."""

    meters: Meters
    readings: Readings
    energy: EnergyHistory
    analytics: Analytics
    rates: Rates


class Stages(Protocol):
    """Told how many seconds an order spent in each stage of its way through the gateway."""

    def parse(self, seconds: float) -> None: ...

    def authenticate(self, seconds: float) -> None: ...

    def answer(self, seconds: float) -> None: ...


class Traces(Protocol):
    """Keeps the way of one order. `order`: market, order, sequence; the four stages follow one another, in seconds."""

    def keep(
        self,
        request_id: str,
        came_us: int,
        order: tuple[int, int, int],
        authenticate: float,
        read: float,
        market: float,
        answer: float,
    ) -> None: ...


class Spans(Protocol):
    """Where requests are traced: `begin` as one comes, `end` as it has been answered, in the same task."""

    def begin(self, request_id: str, method: str, parent: str) -> Any: ...

    def end(
        self,
        begun: Any,
        route: str,
        status: int,
        order: tuple[int, int, int] | None,
        stages: Sequence[tuple[str, float]],
    ) -> None: ...


class NoStages:
    """Nobody wants to know."""

    def parse(self, seconds: float) -> None: ...

    def authenticate(self, seconds: float) -> None: ...

    def answer(self, seconds: float) -> None: ...


class Supervision(Protocol):
    """What the supervisor knows: by actor a dictionary with at least `up`, `state` and `faults`; and `recent_faults`, a
    list of `{actor, at_us, back_us, why}`. Empty when it does not answer.
    """

    async def __call__(self) -> Mapping[str, Any]: ...


class Processes(Protocol):
    """Fresh processes in the place of those that serve. A replacement is a dictionary with at least `actor`, `state`,
    `detail`, `began_us`, `ended_us`, `from_pid`, `to_pid`, `sequence` and `seconds_without`.
    """

    async def replace(self, name: str, *, by_snapshot: bool, node: str, shared: bool | None) -> Mapping[str, Any]:
        """Begin; how it stands, `refused` with a reason, or empty when the supervisor does not answer."""
        ...

    async def replacements(self) -> Mapping[str, Any]:
        """The last one of each actor, by its name."""
        ...


class NoProcesses:
    """Where nobody supervises."""

    async def replace(self, name: str, **_how: object) -> Mapping[str, Any]:  # noqa: ARG002
        return {"state": "refused", "detail": "nobody supervises here"}

    async def replacements(self) -> Mapping[str, Any]:
        return {}


async def not_supervised() -> Mapping[str, Any]:
    """Where nobody supervises."""
    return {}
