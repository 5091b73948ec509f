"""Every Prometheus metric of the actors, with its unit, in one list. No label grows with orders or people."""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


def _now(name: str, meaning: str, *labels: str) -> Gauge:
    """How something is at the moment: of several processes that have said so, the last one counts."""
    return Gauge(name, meaning, labels, multiprocess_mode="mostrecent")


# From 10 us to 10 s, each half as long again as the one before: a percentile read from them is off by a fifth at most.
STAGE_BOUNDS = tuple(round(0.00001 * 1.5**step, 8) for step in range(35))
STAGE_SECONDS = Histogram(
    "wattbook_order_stage_seconds", "What an order spends in each stage of its way", ["stage"], buckets=STAGE_BOUNDS
)
APPLY_SECONDS = Histogram("wattbook_market_apply_seconds", "Engine time of one batch", ["market"], buckets=_FAST)
COMMIT_SECONDS = Histogram("wattbook_market_commit_seconds", "Journal append of one batch", ["market"], buckets=_FAST)
DRAW_SECONDS = Histogram("wattbook_market_draw_seconds", "One draw from the ledger", ["market"], buckets=_FAST)
BATCH_ENTRIES = Histogram("wattbook_market_batch_entries", "Entries in one commit", ["market"], buckets=_COUNTS)
CLEARING_SECONDS = Histogram(
    "wattbook_market_clearing_seconds", "Working out one auction, beside the orders", ["market"], buckets=_FAST
)
MARKET_SEQUENCE = _now("wattbook_market_sequence", "Journal sequence of the book", "market")
MARKET_OPEN = _now("wattbook_market_open", "1 while orders can be placed", "market")
OPEN_ORDERS = _now("wattbook_market_orders", "Orders in the book", "market")
MARKET_WAITING = _now("wattbook_market_waiting", "Commands that wait", "market")
SPREAD_MICRO = _now(
    "wattbook_market_spread_micro", "What the best bid lacks to trade, millionths per kWh; NaN without", "market"
)
DEPTH_WH = _now("wattbook_market_depth_wh", "Energy at the best DEPTH_LEVELS prices of each zone", "market", "side")
TRADES = Counter("wattbook_market_trades_total", "Trades; each is two fills", ["market"])
VOLUME_WH = Counter("wattbook_market_volume_wh_total", "Energy traded", ["market"])
TURNOVER_MICRO = Counter("wattbook_market_turnover_micro_total", "What the sellers of trades were paid", ["market"])
WELFARE_RATIO = _now("wattbook_market_welfare_ratio", "Of the last epoch, of what its orders allowed", "market")
REPLAYS = Counter("wattbook_market_replays_total", "Books thrown away and replayed", ["market"])
OVERLOADED = Counter("wattbook_market_overloaded_total", "Commands refused because too many wait", ["market"])
RECOVERY_SECONDS = Gauge(
    "wattbook_market_recovery_seconds", "Duration of the last recovery", ["market"], multiprocess_mode="mostrecent"
)
FOLLOWED_SEQUENCE = Gauge(
    "wattbook_follower_sequence", "Journal sequence the projections have reached", ["market"], multiprocess_mode="max"
)
FOLLOWER_FAULTS = Counter("wattbook_follower_faults_total", "Times a follower had to start over", ["market"])
PROJECTION_SECONDS = Histogram(
    "wattbook_follower_write_seconds", "One projection transaction", ["market"], buckets=_FAST
)
SNAPSHOT_SECONDS = Histogram("wattbook_follower_snapshot_seconds", "Taking one snapshot", ["market"], buckets=_FAST)
ARCHIVED_SEQUENCE = _now("wattbook_journal_archived_sequence", "Up to where a journal has moved into files", "market")
TICKS = Counter("wattbook_epoch_clock_ticks_total", "Ticks that a market answered", ["market"])
DUTY_DONE = Counter(
    "wattbook_duty_done_total", "What duties have done: trades settled, rounds of the oracle closed", ["duty"]
)
DUTY_FAULTS = Counter("wattbook_duty_faults_total", "Times a duty failed; it is tried again", ["duty"])
UNREACHABLE = Counter("wattbook_link_faults_total", "Requests to an actor that got no answer", ["market"])
METER_READINGS = Counter("wattbook_meter_readings_total", "Readings accepted", ["shard"])
METER_WINDOWS = Counter("wattbook_meter_windows_total", "Windows closed, estimated ones too", ["shard"])
METER_BATCH_SECONDS = Histogram(
    "wattbook_meter_batch_seconds", "Judging and committing one batch of readings", ["shard"], buckets=_FAST
)
METER_REJECTED = Counter("wattbook_meter_rejected_total", "Readings not accepted, by verdict", ["shard", "verdict"])
METER_WINDOW_LAG_SECONDS = _now("wattbook_meter_window_lag_seconds", "Age of the oldest open window's end", "shard")
METER_WAITING = _now("wattbook_meter_waiting", "Readings that wait", "shard")
METER_OVERLOADED = Counter("wattbook_meter_overloaded_total", "Requests refused because too many wait", ["shard"])
METER_RELOADS = Counter("wattbook_meter_reloads_total", "Times a shard read its meters anew", ["shard"])
CHAIN_QUEUE = Gauge(
    "wattbook_chain_submissions",
    "Effects of the chain that are not final yet",
    ["lane", "state"],
    multiprocess_mode="mostrecent",
)
CHAIN_CHANGES = Counter("wattbook_chain_changes_total", "Effects that came into a state", ["lane", "state"])
CHAIN_SENT = Counter("wattbook_chain_sent_total", "Transactions handed to an endpoint, repeats counted")
CHAIN_FAULTS = Counter("wattbook_chain_faults_total", "Rounds that an outage ended", ["part"])
CHAIN_CIRCUIT = Gauge(
    "wattbook_chain_circuit", "0 closed, 1 half open, 2 open", ["endpoint"], multiprocess_mode="mostrecent"
)
CHAIN_LAG_SLOTS = Gauge(
    "wattbook_chain_lag_slots", "Slots between the chain and what was read of it", multiprocess_mode="mostrecent"
)
CHAIN_DIFFERENCES = Gauge(
    "wattbook_chain_differences",
    "Differences between books and chain that the last comparison found",
    multiprocess_mode="mostrecent",
)
CHAIN_EVENTS = Counter("wattbook_chain_events_total", "Events of the programs", ["state"])

# Of each process, and of what all stand on.
LOOP_LAG_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
LOOP_LAG_SECONDS = Histogram(
    "wattbook_loop_lag_seconds", "How late an event loop came to a timer", ["part"], buckets=LOOP_LAG_BOUNDS
)
POOL_CONNECTIONS = _now("wattbook_postgres_pool_connections", "Connections of a pool, busy or idle", "part", "state")
POSTGRES_SESSIONS = _now("wattbook_postgres_sessions", "Sessions of the database", "state")
POSTGRES_SESSIONS_MAX = _now("wattbook_postgres_sessions_max", "Sessions that the server permits")
POSTGRES_TRANSACTION_SECONDS = _now("wattbook_postgres_transaction_seconds", "Age of the oldest open transaction")
POSTGRES_SIZE_BYTES = _now("wattbook_postgres_size_bytes", "Size of the database")
LEDGER_TRANSFERS = _now("wattbook_ledger_transfers", "Number of the newest transfer of the ledger")
ACTOR_UP = _now("wattbook_actor_up", "1 while the actor answers the supervisor", "actor")
ACTOR_FAULTS = Counter("wattbook_actor_faults_total", "Times an actor stopped answering the supervisor", ["actor"])
