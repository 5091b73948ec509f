"""What the gateway can be told at start. The daemon fills it in from its own settings; nothing here reads a file."""

from pathlib import Path
from typing import Final

from msgspec import Struct

ACCESS_SECONDS: Final = 900


class Limit(Struct, frozen=True):
    """A token bucket: `rate` per second on average, `burst` at once."""

    rate: float
    burst: int


class GatewaySettings(Struct, frozen=True, kw_only=True):
    """Times are seconds, sizes bytes, unless the name says otherwise."""

    key_directory: Path  # holds the Ed25519 keys that sign access tokens, and the pepper; made at first start
    chaos_report: Path | None = None  # what the last run of `make chaos` left, if there was one
    api_key_pepper: bytes = b""  # with which API keys are hashed; empty: the one in key_directory
    version: str = "0.0.0"
    issuer: str = "wattbook"
    audience: str = "wattbook-api"
    access_seconds: int = ACCESS_SECONDS
    refresh_seconds: int = 30 * 86_400
    sessions_max: int = 1_000  # sessions shown in one answer

    bcrypt_cost: int = 12
    bcrypt_cost_lowered_for_tests: bool = False  # otherwise a cost below 12 is refused
    api_keys_max: int = 20  # of one person
    head_end_keys_max: int = 1_000
    api_key_days: int = 90  # a key is good for, when it is not said
    api_key_days_max: int = 365
    api_key_uses_seconds: float = 5.0  # how often last uses are written, each key's at most once a minute

    password_workers: int = 2  # bcrypt runs at once
    password_waiting_max: int = 256  # more than this many waiting: OVERLOADED
    login_failures_max: int = 5
    lockout_seconds: int = 900

    site: str = "http://127.0.0.1:8080"  # where people find this exchange: stands in what they sign
    challenge_seconds: int = 300
    challenges_max: int = 5  # open at once, per person
    wallets_max: int = 10  # per person

    directory_grace_seconds: float = 3_600.0  # sessions of its people go on so long while it does not answer

    currency: str = "THB"
    default_zone: str = "Z1"
    faucet_enabled: bool = False

    cors_origins: tuple[str, ...] = ()
    hsts_seconds: int = 0  # how long browsers shall come over TLS only; 0: not said
    trusted_proxies: tuple[str, ...] = ()  # addresses and networks whose X-Forwarded-For is believed
    connections_max: int = 12_000  # HTTP and WebSocket together
    connections_per_address_max: int = 2_000  # of these; trusted proxies are not counted
    head_seconds_max: float = 10.0  # from a request's first byte to the end of its headers
    head_bytes_max: int = 65_536
    body_bytes_max: int = 2_000_000
    readings_bytes_max: int = 6_000_000  # of readings, which come by the ten thousand
    request_seconds_max: float = 15.0
    first_answers_max: int = 2_000  # writes with an Idempotency-Key that one caller may have stored at a time
    first_answers_bytes_max: int = 16 * 2**20  # and what their answers may come to
    barrier_seconds_max: float = 2.0  # how long a read waits for the caller's own writes to be projected
    barrier_poll_seconds: float = 0.005
    callers_fresh_seconds: float = 5.0  # how old a cached role, zone or status may be
    callers_max: int = 100_000
    tokens_max: int = 50_000  # verified access tokens that are remembered
    answers_seconds: int = 60  # how old a kept answer of analytics may be, if nothing makes it stale before
    revocations_seconds: float = 2.0  # how often ended sessions are read
    health_seconds: float = 5.0  # how often health becomes metrics

    orders_limit: Limit = Limit(2_000, 5_000)  # per participant; a batch counts each of its orders
    requests_limit: Limit = Limit(1_000, 3_000)  # per participant, or per address without a login
    message_rates_seconds: float = 2.0  # how often participants' own rates of messages are read
    login_limit: Limit = Limit(20 / 60, 20)  # per address
    registration_limit: Limit = Limit(20 / 60, 20)  # per address
    password_limit: Limit = Limit(10 / 3_600, 10)  # per participant: changes of his password
    limited_keys_max: int = 100_000

    sockets_max: int = 10_000
    socket_frame_bytes_max: int = 1_000_000
    socket_messages_limit: Limit = Limit(5_000, 10_000)  # per connection
    socket_in_flight_max: int = 1_000  # requests of one connection that wait for an answer
    socket_queue_max: int = 20_000  # messages that wait for a slow reader; a commit may bring hundreds at once
    socket_queue_bytes_max: int = 8_000_000
    socket_channels_max: int = 1_000  # subscriptions of one connection

    def __repr__(self) -> str:  # keeps the pepper out of logs and tracebacks
        return f"GatewaySettings(version={self.version!r}, key_directory={str(self.key_directory)!r})"
