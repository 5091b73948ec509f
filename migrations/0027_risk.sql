-- Why: what a participant may do in a market, who may do nothing at all, and what holds for those without limits of
-- their own. Markets journal what they were given; here is what they compare it with when they come back.
-- Locks: ACCESS EXCLUSIVE on markets for a moment, as constant defaults rewrite nothing; the tables are new.

ALTER TABLE markets
    ADD COLUMN quantity_wh_max bigint NOT NULL DEFAULT 0 CHECK (quantity_wh_max >= 0), -- of one order; 0: no limit
    ADD COLUMN orders_max bigint NOT NULL DEFAULT 0 CHECK (orders_max >= 0),
    ADD COLUMN value_micro_max bigint NOT NULL DEFAULT 0 CHECK (value_micro_max >= 0),
    ADD COLUMN position_wh_max bigint NOT NULL DEFAULT 0 CHECK (position_wh_max >= 0),
    ADD COLUMN messages_per_second integer NOT NULL DEFAULT 0 CHECK (messages_per_second BETWEEN 0 AND 100000),
    ADD COLUMN halt_seconds integer NOT NULL DEFAULT 0 CHECK (halt_seconds BETWEEN 0 AND 86400);

-- A row takes the place of all that its market says for everybody; 0: no limit.
CREATE TABLE risk_limits (
    market_id integer NOT NULL REFERENCES markets,
    user_id bigint NOT NULL REFERENCES users,
    quantity_wh_max bigint NOT NULL CHECK (quantity_wh_max >= 0),
    orders_max bigint NOT NULL CHECK (orders_max >= 0),
    value_micro_max bigint NOT NULL CHECK (value_micro_max >= 0),
    position_wh_max bigint NOT NULL CHECK (position_wh_max >= 0),
    messages_per_second integer NOT NULL CHECK (messages_per_second BETWEEN 0 AND 100000),
    PRIMARY KEY (market_id, user_id)
);
CREATE INDEX risk_limits_user ON risk_limits (user_id);

-- Who has a row places nothing anywhere.
CREATE TABLE blocks (
    user_id bigint PRIMARY KEY REFERENCES users,
    reason text NOT NULL CHECK (length(reason) <= 500),
    since_us bigint NOT NULL
);
