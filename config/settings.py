"""Every setting of the daemon, with what is allowed. Where they come from: load.py. What they mean: default.toml.

`name = ...` in TOML is WATTBOOK_NAME in the environment. Empty addresses mean: the embedded server.
Each `description` completes the sentence "this setting must be ..." of an error.
"""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

PASSWORD_LENGTH_MIN: Final = 12
PASSWORD_LENGTH_MAX: Final = 128
SECRET_LENGTH_MIN: Final = 32
OF_THE_NODE: Final = "node"  # as dataplane_host: where the actor runs, as Ray knows it

# Never shown, may be given as WATTBOOK_NAME_FILE: a file that holds the value.
SECRETS: Final = frozenset(
    {
        "admin_password",
        "api_key_pepper",
        "cluster_secret",
        "database_url",
        "ldap_bind_password",
        "redis_url",
        "solana_rpc_urls",
        "solana_ws_urls",
        "wallet_master_keys",
    }
)


def _text(pattern: str, description: str) -> Any:
    return Meta(pattern=pattern, description=description)


def _between(low: float, high: float, what: str = "a number") -> Any:
    return Meta(ge=low, le=high, description=f"{what} from {low} to {high}")


Port = Annotated[int, _between(1, 65_535, "a port number")]
Host = Annotated[str, _text(r"^[^\s/]{1,253}$", "a host name or address")]
ZoneId = Annotated[str, _text(r"^[A-Za-z0-9_-]{1,32}$", "1 to 32 letters, digits, _ or -")]
Tariff = Annotated[
    str, _text(r"^[0-9]{1,6}(\.[0-9]{1,6})?$", 'a price per kWh as text with at most 6 decimals, such as "4.500"')
]
RpcUrl = Annotated[str, _text(r"^https?://\S+$", "a list of http:// or https:// addresses")]
WsUrl = Annotated[str, _text(r"^wss?://\S+$", "a list of ws:// or wss:// addresses")]
LaneBound = Annotated[
    str,
    _text(
        r"^(register|mint|burn|settle|withdraw|oracle|govern):[1-9][0-9]{0,4}$",
        "a list of lanes with their bounds, such as mint:512",
    ),
]
Origin = Annotated[
    str,
    _text(
        r"^https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$",
        "a list of origins as browsers send them, in lower case and without a path, such as https://energy.example.org",
    ),
]
Network = Annotated[
    str, _text(r"^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$", "a list of addresses or networks, such as 10.0.0.0/8")
]

Attribute = Annotated[str, _text(r"^[A-Za-z][A-Za-z0-9-]{0,63}$", "the name of an LDAP attribute, such as mail")]
Groups = Annotated[
    tuple[Annotated[str, _text(r"^[^=\s]+=.+$", "a list of distinguished names")], ...],
    Meta(max_length=16, description="a list of at most 16 distinguished names"),
]


PART_ACCOUNTS_WITHOUT_TABLES: Final = 6  # fit a transaction of a settlement always


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decoded and checked; the daemon hands each part what it needs of it."""

    # where things are
    data_dir: Annotated[str, Meta(min_length=1, description="a directory")]
    markets_file: str
    database_url: Annotated[
        str, _text(r"^(postgres(ql)?://\S+)?$", 'a postgresql:// address, or "" for the embedded one')
    ]
    redis_url: Annotated[
        str,
        _text(
            r"^((redis|rediss|unix)://\S+)?$", 'a redis://, rediss:// or unix:// address, or "" for the embedded one'
        ),
    ]
    solana_rpc_urls: tuple[RpcUrl, ...]
    solana_ws_urls: tuple[WsUrl, ...]
    solana_idls: str
    solana_currency_mint: Annotated[
        str, _text(r"^([1-9A-HJ-NP-Za-km-z]{32,44})?$", 'a Solana address, or "" for a mint of our own')
    ]
    solana_priority_fee: Annotated[int, _between(0, 10_000_000)]
    solana_batch_max: Annotated[int, _between(1, 100)]
    solana_lookup_tables: bool
    chain_lanes: tuple[LaneBound, ...]
    devnet_enabled: bool
    devnet_port: Annotated[int, _between(0, 65_534)]
    devnet_slot_ms: Annotated[int, _between(50, 10_000)]
    ray_address: str
    cluster_secret: str

    # what listens where
    http_host: Host
    http_port: Port
    metrics_host: Host
    metrics_port: Port
    ray_dashboard_port: Port
    dataplane_host: Host
    gateways: Annotated[int, _between(1, 64)]
    meter_shards: Annotated[int, _between(1, 64)]
    markets_per_host: Annotated[int, _between(1, 1_000)]
    cors_origins: tuple[Origin, ...]
    trusted_proxies: tuple[Network, ...]
    hsts_seconds: Annotated[int, _between(0, 63_072_000)]
    connections_per_address_max: Annotated[int, _between(1, 12_000)]
    orders_per_second: Annotated[int, _between(1, 100_000)]
    requests_per_second: Annotated[int, _between(1, 100_000)]
    public_url: Annotated[str, _text(r"^(https?://[^\s]+)?$", "an http:// or https:// address")]

    # who
    admin_email: Annotated[str, _text(r"^([^@\s]+@[^@\s]+)?$", "an e-mail address")]
    admin_password: str
    default_zone: ZoneId
    wallet_master_keys: Annotated[
        str,
        _text(
            r"^([1-9]\d{0,3}:[A-Za-z0-9+/]{43}=(,[1-9]\d{0,3}:[A-Za-z0-9+/]{43}=)*)?$",
            "versions with the base64 of 32 bytes each, such as 1:<base64>,2:<base64>",
        ),
    ]
    faucet_enabled: bool
    api_key_pepper: str
    api_keys_max: Annotated[int, _between(1, 1_000)]
    api_key_days: Annotated[int, _between(1, 3_650)]
    api_key_days_max: Annotated[int, _between(1, 3_650)]

    # the directory
    ldap_url: Annotated[str, _text(r"^(ldaps?://[^\s/]+/?)?$", 'an ldap:// or ldaps:// address, or "" for none')]
    ldap_ca_file: str
    ldap_bind_dn: str
    ldap_bind_password: str
    ldap_base_dn: str
    ldap_login_attribute: Attribute
    ldap_name_attribute: Attribute
    ldap_id_attribute: Attribute
    ldap_student_groups: Groups
    ldap_faculty_groups: Groups
    ldap_admin_groups: Groups
    ldap_timeout_seconds: Annotated[float, _between(0.1, 60)]
    ldap_grace_seconds: Annotated[float, _between(0, 30 * 86_400)]

    # money
    currency: Annotated[str, _text(r"^[A-Z]{3,10}$", "3 to 10 capital letters, such as THB")]
    retail_tariff: Tariff
    feed_in_tariff: Tariff
    emission_factor: Annotated[
        str,
        _text(r"^[0-9]{1,3}(\.[0-9]{1,6})?$", 'kg of CO2e per kWh as text with at most 6 decimals, such as "0.500"'),
    ]

    # bounds and intervals
    readings_kept_days: Annotated[int, _between(40, 36_500)]
    reading_verdicts_kept_days: Annotated[int, _between(1, 36_500)]
    settlement_every_seconds: Annotated[int, _between(1, 86_400)]
    settlement_trades_max: Annotated[int, _between(1, 10_000)]
    settlement_part_accounts: Annotated[int, _between(4, 18)]
    reconciliation_every_seconds: Annotated[int, _between(1, 86_400)]
    journal_kept_days: Annotated[float, _between(0, 36_500)]
    archive_dir: str
    snapshot_every: Annotated[int, _between(100, 100_000_000)]
    snapshots_kept: Annotated[int, _between(1, 100)]
    idle_return_seconds: Annotated[float, _between(0.1, 86_400)]
    batch_max: Annotated[int, _between(1, 10_000)]
    waiting_max: Annotated[int, _between(1, 1_000_000)]
    body_bytes_max: Annotated[int, _between(1_024, 64 * 2**20)]
    request_timeout_seconds: Annotated[float, _between(0.1, 300)]
    otlp_endpoint: Annotated[str, _text(r"^(https?://[^\s]+)?$", 'the http:// address of a collector, or "" for none')]
    trace_sample: Annotated[float, _between(0, 1)]
    orders_traced: Annotated[int, _between(0, 10_000_000)]
    log_level: Literal["debug", "info", "warning", "error"]

    @property
    def faucet_is_open(self) -> bool:
        """Deposits that nobody paid for exist beside the private chain only, never beside a real one."""
        return self.faucet_enabled and not self.solana_rpc_urls

    @property
    def has_private_chain(self) -> bool:
        return self.devnet_enabled and not self.solana_rpc_urls

    @property
    def site(self) -> str:
        """Where people find this exchange."""
        return self.public_url or f"http://{self.http_host}:{self.http_port}"

    @property
    def folder(self) -> Path:
        """Of everything that this installation keeps."""
        return Path(self.data_dir).absolute()

    @property
    def keys(self) -> Path:
        """Secrets: for the daemon's user only."""
        return self.folder / "keys"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def traces(self) -> Path:
        """Where gateways keep the ways of their newest orders."""
        return self.folder / "traces"

    @property
    def archive(self) -> Path:
        """Where journals' oldest rows are, as files."""
        return Path(self.archive_dir).absolute() if self.archive_dir else self.folder / "archive"

    @property
    def unfinished(self) -> Path:
        """There while `wattbook restore` writes here: nothing else may begin."""
        return self.folder / "restore.unfinished"

    @property
    def metrics_folder(self) -> Path:
        """Where all processes leave their figures."""
        return self.folder / "metrics"

    @property
    def url(self) -> str:
        """Of the gateway, as somebody on this machine calls it."""
        return f"http://{self.http_host}:{self.http_port}"

    def problems(self) -> list[str]:
        """Rules between and beyond types, each as a sentence that names its setting; never with a secret's value."""
        ports = {"http_port": self.http_port, "metrics_port": self.metrics_port}
        if not self.ray_address:
            ports["ray_dashboard_port"] = self.ray_dashboard_port
        found = []
        for name, port in ports.items():
            others = [other for other in ports if other > name and ports[other] == port]
            found += [f"{name} = {port}: {other} has the same" for other in others]
        if self.admin_password and not self.admin_email:
            found.append("admin_password: needs admin_email beside it")
        length = len(self.admin_password)
        if self.admin_password and not PASSWORD_LENGTH_MIN <= length <= PASSWORD_LENGTH_MAX:
            found.append(f"admin_password: must be {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters long")
        if self.api_key_pepper and len(self.api_key_pepper) < SECRET_LENGTH_MIN:
            found.append(f"api_key_pepper: must be at least {SECRET_LENGTH_MIN} characters long")
        if self.api_key_days > self.api_key_days_max:
            found.append(f"api_key_days = {self.api_key_days}: must be at most api_key_days_max")
        if self.batch_max > self.waiting_max:
            found.append(f"batch_max = {self.batch_max}: must be at most waiting_max, which is {self.waiting_max}")
        if self.settlement_part_accounts > PART_ACCOUNTS_WITHOUT_TABLES and not self.solana_lookup_tables:
            found.append(
                f"settlement_part_accounts = {self.settlement_part_accounts}: more than "
                f"{PART_ACCOUNTS_WITHOUT_TABLES} need solana_lookup_tables"
            )
        if self.ray_address and len(self.cluster_secret) < SECRET_LENGTH_MIN:
            length = SECRET_LENGTH_MIN
            found.append(f"cluster_secret: must be at least {length} characters long when ray_address names a cluster")
        if self.journal_kept_days and self.ray_address and not self.archive_dir:
            found.append(
                "archive_dir: must name a folder that all machines share, with journal_kept_days and ray_address"
            )
        if self.ldap_url:
            found += self._problems_of_the_directory()
        for origin in self.cors_origins:
            if (origin[:5], origin.rpartition(":")[2]) in (("http:", "80"), ("https", "443")):
                found.append(f"cors_origins: {origin}: browsers leave the usual port out, so it would never match")
        for network in self.trusted_proxies:
            try:
                ip_network(network)
            except ValueError as error:
                found.append(f"trusted_proxies: {error}")
        return found

    def _problems_of_the_directory(self) -> list[str]:
        found = []
        if not self.ldap_base_dn:
            found.append("ldap_base_dn: is needed with ldap_url")
        if bool(self.ldap_bind_dn) != bool(self.ldap_bind_password):
            found.append("ldap_bind_dn, ldap_bind_password: set both, or none to search anonymously")
        if self.ldap_timeout_seconds >= self.request_timeout_seconds:
            found.append(
                f"ldap_timeout_seconds = {self.ldap_timeout_seconds}: must be less than request_timeout_seconds, "
                f"which is {self.request_timeout_seconds}"
            )
        return found

    def shown(self) -> dict[str, object]:
        """Everything, secrets hidden: for the log at start."""
        return {
            name: "(hidden)" if name in SECRETS and getattr(self, name) else getattr(self, name)
            for name in self.__struct_fields__
        }

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"
