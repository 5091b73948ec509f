-- Why: orders that somebody wants placed again and again; people who oblige themselves to quote, how long they did in
-- each epoch, and what they got for it; what a position paid for the way through the grid.
-- Locks: ACCESS EXCLUSIVE on positions for a moment, as a constant default rewrites nothing; the tables are new.

-- Period n begins at first_us + n * every_seconds. placed_period: the last one that an order was placed for, or refused.
CREATE TABLE recurring_orders (
    recurring_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES users,
    market_id integer NOT NULL REFERENCES markets,
    side smallint NOT NULL CHECK (side IN (0, 1)),
    price_micro bigint NOT NULL CHECK (price_micro > 0),
    quantity_wh bigint NOT NULL CHECK (quantity_wh > 0),
    every_seconds integer NOT NULL CHECK (every_seconds BETWEEN 60 AND 604800),
    first_us bigint NOT NULL,
    ends_us bigint NOT NULL CHECK (ends_us > first_us), -- no period that begins then or later is placed
    count_max integer NOT NULL CHECK (count_max >= 0), -- 0: no limit
    placed_period bigint NOT NULL DEFAULT -1,
    placed integer NOT NULL DEFAULT 0,
    outcome text NOT NULL DEFAULT '' CHECK (length(outcome) <= 300), -- of the last period: empty, or why not
    active boolean NOT NULL DEFAULT true,
    created_us bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX recurring_orders_user ON recurring_orders (user_id, recurring_id);
CREATE INDEX recurring_orders_active ON recurring_orders (recurring_id) WHERE active;

-- Quoting: a bid and an ask of at least this size, at most this far apart, in basis points of the price between them.
CREATE TABLE market_makers (
    market_id integer NOT NULL REFERENCES markets,
    user_id bigint NOT NULL REFERENCES users,
    spread_bps_max integer NOT NULL CHECK (spread_bps_max BETWEEN 1 AND 20000),
    size_wh_min bigint NOT NULL CHECK (size_wh_min > 0),
    presence_bps_min integer NOT NULL CHECK (presence_bps_min BETWEEN 1 AND 10000), -- of an epoch's time
    rebate_bps integer NOT NULL CHECK (rebate_bps BETWEEN 0 AND 9999), -- of what traded with his resting orders
    since_us bigint NOT NULL,
    PRIMARY KEY (market_id, user_id)
);

CREATE TABLE maker_presence (
    market_id integer NOT NULL,
    user_id bigint NOT NULL,
    epoch_start_us bigint NOT NULL,
    quoted_us bigint NOT NULL CHECK (quoted_us >= 0),
    PRIMARY KEY (market_id, epoch_start_us, user_id)
) WITH (fillfactor = 70);

-- One row per maker and epoch that is over: the primary key is the rule that it is paid once.
CREATE TABLE maker_rewards (
    market_id integer NOT NULL,
    epoch_start_us bigint NOT NULL,
    user_id bigint NOT NULL,
    presence_bps integer NOT NULL CHECK (presence_bps BETWEEN 0 AND 10000),
    presence_bps_min integer NOT NULL,
    value_micro bigint NOT NULL CHECK (value_micro >= 0), -- traded with his resting orders
    rebate_micro bigint NOT NULL CHECK (rebate_micro >= 0),
    epoch_end_us bigint NOT NULL,
    settlement bigint, -- that tells the chain of the rebate
    PRIMARY KEY (market_id, epoch_start_us, user_id)
);
CREATE INDEX maker_rewards_unsettled ON maker_rewards (epoch_end_us) WHERE settlement IS NULL AND rebate_micro > 0;
CREATE INDEX maker_rewards_user ON maker_rewards (user_id, epoch_start_us, market_id);

ALTER TABLE positions ADD COLUMN charges_micro bigint NOT NULL DEFAULT 0; -- of what was paid, the grid's; 0 before this
