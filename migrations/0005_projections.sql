-- Why: what people ask about orders and trades, written by the follower of each market's journal.
-- Everything here can be made again from the journal. `cursors` says up to where it has been written.
-- Locks: none that matter, every table is new.

CREATE TABLE cursors (
    market_id integer PRIMARY KEY CHECK (market_id > 0),
    sequence bigint NOT NULL CHECK (sequence >= 0),
    time_us bigint NOT NULL,
    phase smallint NOT NULL,
    reference_price_micro bigint NOT NULL,
    last_price_micro bigint NOT NULL,
    epoch_start_us bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE orders (
    market_id integer NOT NULL,
    order_id bigint NOT NULL,
    participant_id bigint NOT NULL,
    client_order_id text NOT NULL,
    side smallint NOT NULL CHECK (side IN (0, 1)),
    kind smallint NOT NULL,
    price_micro bigint NOT NULL,
    quantity_wh bigint NOT NULL CHECK (quantity_wh >= 0),
    filled_wh bigint NOT NULL CHECK (filled_wh BETWEEN 0 AND quantity_wh),
    remaining_wh bigint NOT NULL CHECK (remaining_wh >= 0),
    value_micro bigint NOT NULL,
    status smallint NOT NULL CHECK (status BETWEEN 1 AND 5),
    end_reason smallint NOT NULL,
    time_in_force smallint NOT NULL,
    expires_us bigint NOT NULL,
    post_only boolean NOT NULL,
    zone text NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (market_id, order_id)
) WITH (fillfactor = 80);
CREATE INDEX orders_participant ON orders (participant_id, created_us, market_id, order_id);
CREATE INDEX orders_open ON orders (participant_id, created_us, market_id, order_id) WHERE status IN (1, 2);
CREATE INDEX orders_client_id ON orders (participant_id, client_order_id, market_id, order_id)
    WHERE client_order_id <> '';

CREATE TABLE trades (
    market_id integer NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    sequence bigint NOT NULL,
    time_us bigint NOT NULL,
    epoch_start_us bigint NOT NULL,
    maker_order_id bigint NOT NULL,
    taker_order_id bigint NOT NULL,
    buyer_id bigint NOT NULL,
    seller_id bigint NOT NULL,
    taker_side smallint NOT NULL CHECK (taker_side IN (0, 1)),
    energy_wh bigint NOT NULL CHECK (energy_wh > 0),
    price_micro bigint NOT NULL,
    buyer_price_micro bigint NOT NULL,
    seller_price_micro bigint NOT NULL,
    buyer_value_micro bigint NOT NULL,
    seller_value_micro bigint NOT NULL,
    buyer_fee_micro bigint NOT NULL,
    seller_fee_micro bigint NOT NULL,
    buyer_zone text NOT NULL,
    seller_zone text NOT NULL,
    CHECK (buyer_value_micro >= seller_value_micro), -- the difference is the grid's, and never a credit
    PRIMARY KEY (market_id, number)
);
CREATE INDEX trades_buyer ON trades (buyer_id, time_us, market_id, number);
CREATE INDEX trades_seller ON trades (seller_id, time_us, market_id, number);
CREATE INDEX trades_maker_order ON trades (market_id, maker_order_id);
CREATE INDEX trades_taker_order ON trades (market_id, taker_order_id);

CREATE TABLE positions (
    participant_id bigint NOT NULL,
    epoch_start_us bigint NOT NULL,
    market_id integer NOT NULL,
    bought_wh bigint NOT NULL,
    sold_wh bigint NOT NULL,
    paid_micro bigint NOT NULL,
    received_micro bigint NOT NULL,
    fees_micro bigint NOT NULL,
    trades bigint NOT NULL,
    PRIMARY KEY (participant_id, epoch_start_us, market_id)
) WITH (fillfactor = 70);

CREATE TABLE candles (
    market_id integer NOT NULL,
    seconds integer NOT NULL,
    start_us bigint NOT NULL,
    open_micro bigint NOT NULL,
    high_micro bigint NOT NULL,
    low_micro bigint NOT NULL,
    close_micro bigint NOT NULL,
    volume_wh bigint NOT NULL,
    value_micro bigint NOT NULL,
    trades bigint NOT NULL,
    CHECK (low_micro <= open_micro AND low_micro <= close_micro
        AND high_micro >= open_micro AND high_micro >= close_micro),
    PRIMARY KEY (market_id, seconds, start_us)
) WITH (fillfactor = 70);

CREATE TABLE epochs (
    market_id integer NOT NULL,
    start_us bigint NOT NULL,
    volume_wh bigint NOT NULL,
    value_micro bigint NOT NULL, -- at makers' own prices
    trades bigint NOT NULL,
    PRIMARY KEY (market_id, start_us)
) WITH (fillfactor = 70);
