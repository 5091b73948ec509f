-- Why: which markets and zones there are, what a path through the grid costs and carries.
-- Locks: none that matter, every table is new.

CREATE TABLE zones (
    zone_id text PRIMARY KEY CHECK (zone_id ~ '^[A-Za-z0-9_-]{1,32}$'),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200)
);

-- A cost holds from its instant to that of the pair's next row; rows are added, never changed.
CREATE TABLE costs (
    zone_from text NOT NULL REFERENCES zones,
    zone_to text NOT NULL REFERENCES zones,
    valid_from_us bigint NOT NULL,
    wheeling_micro bigint NOT NULL CHECK (wheeling_micro >= 0),
    loss_bps integer NOT NULL CHECK (loss_bps BETWEEN 0 AND 9999),
    PRIMARY KEY (zone_from, zone_to, valid_from_us)
);

CREATE TABLE capacities (
    zone_from text NOT NULL REFERENCES zones,
    zone_to text NOT NULL REFERENCES zones,
    capacity_wh bigint NOT NULL CHECK (capacity_wh >= -1), -- per epoch; -1: no limit
    PRIMARY KEY (zone_from, zone_to)
);

CREATE TABLE markets (
    market_id integer PRIMARY KEY CHECK (market_id > 0),
    symbol text NOT NULL CONSTRAINT markets_symbol_key UNIQUE CHECK (length(symbol) BETWEEN 1 AND 32),
    zones text[] NOT NULL CHECK (cardinality(zones) > 0),
    mechanism smallint NOT NULL CHECK (mechanism BETWEEN 1 AND 3),
    tick_micro bigint NOT NULL CHECK (tick_micro > 0 AND tick_micro % 1000 = 0),
    lot_wh bigint NOT NULL CHECK (lot_wh > 0),
    quantity_wh_min bigint NOT NULL CHECK (quantity_wh_min > 0),
    price_micro_min bigint NOT NULL CHECK (price_micro_min > 0),
    price_micro_max bigint NOT NULL CHECK (price_micro_max >= price_micro_min),
    band_bps integer NOT NULL CHECK (band_bps BETWEEN 0 AND 9999),
    reference_price_micro bigint NOT NULL CHECK (reference_price_micro >= 0),
    maker_fee_bps integer NOT NULL CHECK (maker_fee_bps BETWEEN -taker_fee_bps AND 9999),
    taker_fee_bps integer NOT NULL CHECK (taker_fee_bps BETWEEN 0 AND 9999),
    auction_fee_bps integer NOT NULL CHECK (auction_fee_bps BETWEEN 0 AND 9999),
    epoch_seconds integer NOT NULL CHECK (epoch_seconds > 0),
    order_life_seconds_max integer NOT NULL CHECK (order_life_seconds_max > 0),
    closed_orders_kept integer NOT NULL CHECK (closed_orders_kept >= 0),
    phase_first smallint NOT NULL CHECK (phase_first BETWEEN 1 AND 5), -- what the market is put into at its start
    created_us bigint NOT NULL
);

-- The costs and capacities that a market was last given; `costs` may know newer ones that it has not been told yet.
CREATE TABLE market_paths (
    market_id integer NOT NULL REFERENCES markets,
    place integer NOT NULL, -- in the spec
    zone_from text NOT NULL REFERENCES zones,
    zone_to text NOT NULL REFERENCES zones,
    wheeling_micro bigint NOT NULL CHECK (wheeling_micro >= 0),
    loss_bps integer NOT NULL CHECK (loss_bps BETWEEN 0 AND 9999),
    capacity_wh bigint NOT NULL CHECK (capacity_wh >= -1),
    PRIMARY KEY (market_id, zone_from, zone_to)
);
