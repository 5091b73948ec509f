"""Rows that persistence keeps and the gateway shows: the shared nouns of accounts, ledger and history.

They live in the engine because siblings may not import one another; they carry no behaviour. Instants are microseconds.
"""

from enum import IntEnum

from msgspec import Struct

from engine.market import RiskLimits
from engine.messages import ParticipantId, Side, ZonePrice
from engine.units import EnergyWh, MoneyMicro, PriceMicro, TimeUs
from engine.views import EpochPhase, FillView, OrderView


class EmailTaken(Exception):
    """Another user has this e-mail address."""


class SymbolTaken(Exception):
    """Another market has this symbol."""


class NumberTaken(Exception):
    """A transfer into the market with this number exists already: another owner of the market made it."""


class AddressTaken(Exception):
    """The Solana address is somebody's wallet already; it is not said whose."""


class ChallengeGone(Exception):
    """The challenge was used, has expired, or was replaced by a newer one."""


class PlatformWalletKept(Exception):
    """A platform wallet is there: there is one per person, and it is never removed, for it holds its only key."""


class WalletsFull(Exception):
    """This person has as many wallets, or open challenges, as one may have."""


class DirectoryDown(Exception):
    """The directory does not answer, or not as it should: nobody knows who somebody is."""


class LastAdmin(Exception):
    """The change would leave nobody who can administer."""


class TooManyKeys(Exception):
    """The person, or the exchange for its head-ends, has as many API keys as there may be."""


class ReferenceReused(Exception):
    """A transfer with this reference exists already, with other contents."""


class UserRecord(Struct, frozen=True):
    """role: student, faculty, admin, ami; status: active, suspended. The hash never leaves the gateway's auth code.

    source: local, or directory, whose people have no password here. confirmed_us: when the directory last knew him.
    """

    user_id: ParticipantId
    email: str
    name: str
    role: str
    status: str
    zone: str
    password_hash: bytes
    created_us: TimeUs
    source: str = "local"
    directory_id: bytes = b""
    confirmed_us: TimeUs = 0

    def __repr__(self) -> str:  # keeps the hash out of logs and tracebacks
        return f"UserRecord(user_id={self.user_id}, role={self.role!r}, status={self.status!r})"


class DirectoryPerson(Struct, frozen=True):
    """Somebody as the directory describes him. directory_id never changes and never belongs to somebody else."""

    directory_id: bytes
    email: str
    name: str
    role: str


class SessionRecord(Struct, frozen=True):
    session_id: str
    user_id: ParticipantId
    created_us: TimeUs
    used_us: TimeUs
    expires_us: TimeUs


class ApiKeyRecord(Struct, frozen=True):
    """A key for a program. user_id None: a head-end system's, with nobody behind it, which may speak for meter_ids.

    key_id is public: the prefix of the secret. number is for where an integer is needed; public_key has 32 bytes.
    """

    key_id: str
    number: int
    user_id: ParticipantId | None
    name: str
    scopes: tuple[str, ...]
    secret_hash: bytes
    meter_ids: tuple[str, ...]
    public_key: bytes | None
    created_us: TimeUs
    expires_us: TimeUs
    used_us: TimeUs | None

    def __repr__(self) -> str:  # keeps the hash out of logs and tracebacks
        return f"ApiKeyRecord(key_id={self.key_id!r}, user_id={self.user_id}, scopes={self.scopes})"


class RotateOutcome(IntEnum):
    OK = 1
    REUSED = 2  # an old refresh token came back: the whole family has been ended
    UNKNOWN = 3


class WalletRecord(Struct, frozen=True):
    """kind: linked (its owner proved it by a signature) or platform (we keep its secret, sealed)."""

    address: str  # base58 of 32 bytes
    user_id: ParticipantId
    kind: str
    primary: bool
    created_us: TimeUs


class TooManyRecurring(Exception):
    """This person has as many active recurring orders as one may have."""


class NewRecurring(Struct, frozen=True):
    """A limit order in each period from first_us on; none that begins at ends_us or later. count_max 0: no limit."""

    user_id: ParticipantId
    market_id: int
    side: Side
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    every_seconds: int
    first_us: TimeUs
    ends_us: TimeUs
    count_max: int


class RecurringRecord(Struct, frozen=True):
    """As NewRecurring. placed: orders so far; outcome: empty, or why the last period has none."""

    recurring_id: int
    user_id: ParticipantId
    market_id: int
    side: Side
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    every_seconds: int
    first_us: TimeUs
    ends_us: TimeUs
    count_max: int
    placed: int
    outcome: str
    active: bool
    created_us: TimeUs


class DueOrder(Struct, frozen=True):
    """The order of one period of a recurring order; until_us: when the next period begins."""

    recurring_id: int
    user_id: ParticipantId
    market_id: int
    side: Side
    price_micro: PriceMicro
    quantity_wh: EnergyWh
    zone: str
    period: int
    until_us: TimeUs


class ParticipantRisk(Struct, frozen=True):
    """What should hold for a participant in one market. limits None: the market's."""

    limits: RiskLimits | None
    is_blocked: bool


class OwnLimits(Struct, frozen=True):
    """Of one participant in one market, instead of all that the market says. messages_per_second 0: no limit."""

    limits: RiskLimits
    messages_per_second: int = 0


class RiskRecord(Struct, frozen=True):
    """What is set for a participant; limits by market. blocked_us 0: he is not blocked."""

    user_id: ParticipantId
    limits: dict[int, OwnLimits]
    blocked_us: TimeUs = 0
    reason: str = ""


class ZoneRecord(Struct, frozen=True):
    zone_id: str
    name: str


class CostRecord(Struct, frozen=True):
    zone_from: str
    zone_to: str
    wheeling_micro: PriceMicro
    loss_bps: int
    valid_from_us: TimeUs


class CapacityRecord(Struct, frozen=True):
    """capacity_wh: per epoch; -1 for no limit."""

    zone_from: str
    zone_to: str
    capacity_wh: EnergyWh


class Want(Struct, frozen=True):
    """An amount that a market is short of for a participant; asset as the ledger names it.

    at_most: more than `amount` is welcome, up to this, when the main account has it; 0: exactly `amount`.
    """

    participant_id: ParticipantId
    asset: str
    amount: int
    at_most: int = 0


class Draw(Struct, frozen=True):
    """A transfer from the main account into a market; number runs 1, 2, 3, ... in each market."""

    number: int
    participant_id: ParticipantId
    asset: str
    amount: int


class DepositRecord(Struct, frozen=True):
    deposit_id: int
    participant_id: ParticipantId
    asset: str
    amount: int
    reference: str
    created_us: TimeUs


class AccountBalance(Struct, frozen=True):
    """All of a participant's holdings of one asset: available in the main account, in_markets in all markets' accounts.

    reserved is part of in_markets; the total is available + in_markets.
    """

    asset: str
    available: int
    in_markets: int
    reserved: int


class Holding(Struct, frozen=True):
    """What a participant has in one market; reserved is part of balance."""

    market_id: int
    asset: str
    balance: int
    reserved: int


class LedgerLine(Struct, frozen=True):
    """One entry of a transfer on an account of the participant. account: main or market."""

    line_id: int
    transfer_id: int
    kind: str
    reference: str
    account: str
    market_id: int
    asset: str
    amount: int
    created_us: TimeUs


class TrialLine(Struct, frozen=True):
    asset: str
    kind: str
    amount: int


class StoredOrder(Struct, frozen=True):
    market_id: int
    view: OrderView


class StoredFill(Struct, frozen=True):
    market_id: int
    view: FillView


class CandleRecord(Struct, frozen=True):
    start_us: TimeUs
    open_micro: PriceMicro
    high_micro: PriceMicro
    low_micro: PriceMicro
    close_micro: PriceMicro
    volume_wh: EnergyWh
    value_micro: MoneyMicro
    trades: int


class PositionRecord(Struct, frozen=True):
    market_id: int
    epoch_start_us: TimeUs
    bought_wh: EnergyWh
    sold_wh: EnergyWh
    paid_micro: MoneyMicro
    received_micro: MoneyMicro
    fees_micro: MoneyMicro
    trades: int
    charges_micro: MoneyMicro = 0


class MakerRecord(Struct, frozen=True):
    """What a market maker has promised: see migrations/0029, whose columns these are."""

    market_id: int
    user_id: ParticipantId
    spread_bps_max: int
    size_wh_min: EnergyWh
    presence_bps_min: int
    rebate_bps: int
    since_us: TimeUs


class RewardRecord(Struct, frozen=True):
    """What a market maker did in an epoch, and got for it. value_micro: traded with his resting orders."""

    market_id: int
    epoch_start_us: TimeUs
    user_id: ParticipantId
    presence_bps: int
    presence_bps_min: int
    value_micro: MoneyMicro
    rebate_micro: MoneyMicro


class StatsRecord(Struct, frozen=True):
    """All zero when nothing traded in the period."""

    open_micro: PriceMicro
    high_micro: PriceMicro
    low_micro: PriceMicro
    last_micro: PriceMicro
    volume_wh: EnergyWh
    value_micro: MoneyMicro
    trades: int


class EpochRecord(Struct, frozen=True):
    """volume_wh, value_micro, trades: of all its trades. price_micro: the auction's, 0 if there is none, or several."""

    start_us: TimeUs
    volume_wh: EnergyWh
    value_micro: MoneyMicro
    trades: int
    phase: EpochPhase = EpochPhase.CLEARED
    orders: int = 0  # that took part in the auction
    price_micro: PriceMicro = 0
    cleared_wh: EnergyWh = 0
    surplus_wh: int = 0
    welfare_micro: MoneyMicro = 0
    welfare_max_micro: MoneyMicro = 0
    orders_hash: str = ""
    zones: tuple[ZonePrice, ...] = ()


class TradeTotals(Struct, frozen=True):
    trades: int
    energy_wh: int
    buyer_value_micro: int
    seller_value_micro: int
    fees_micro: int


class MarketBalance(Struct, frozen=True):
    """A participant's account in a market, as the ledger has it."""

    participant_id: int
    asset: str
    balance: int
    reserved: int


class FirstAnswer(Struct, frozen=True):
    """A write that had an Idempotency-Key first. `status` 0: not answered. `body` None beside a status: not kept."""

    fingerprint: bytes
    began_us: int
    status: int
    media_type: str
    body: bytes | None

    def __repr__(self) -> str:  # an answer is its caller's business
        return f"FirstAnswer(began_us={self.began_us}, status={self.status})"


class TooManyFirstAnswers(Exception):
    """The caller has as many first answers stored as there may be."""


class Closed(Struct, frozen=True):
    """A market's journal up to last_sequence is needed by nobody who runs; oldest_us: of its first row in the table."""

    market_id: int
    symbol: str
    archived_sequence: int
    last_sequence: int
    oldest_us: TimeUs
