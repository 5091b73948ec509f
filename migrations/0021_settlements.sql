-- Why: settlements: which trades each one took, the parts in which the chain is told, how far they are, and whether
-- books and chain were found to agree afterwards.
-- Locks: none that matter, every table is new.

-- One row: whoever makes a settlement holds it, so that they are made one after the other, numbered without a gap.
CREATE TABLE settlement_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number bigint NOT NULL
);
INSERT INTO settlement_head (number) VALUES (0);

-- Up to which trade each market has been settled.
CREATE TABLE settlement_cursors (
    market_id integer PRIMARY KEY,
    number bigint NOT NULL CHECK (number > 0)
) WITH (fillfactor = 50);

CREATE TABLE settlements (
    number bigint PRIMARY KEY CHECK (number > 0),
    settlement_id bytea NOT NULL CONSTRAINT settlements_id_key UNIQUE CHECK (octet_length(settlement_id) = 16),
    root bytea NOT NULL CHECK (octet_length(root) = 32),
    salt bytea NOT NULL CHECK (octet_length(salt) = 32), -- hides each side of a trade from the other one
    trades integer NOT NULL CHECK (trades > 0),
    energy_wh bigint NOT NULL CHECK (energy_wh > 0),
    value_micro bigint NOT NULL CHECK (value_micro >= 0), -- what buyers paid, without fees
    status smallint NOT NULL CHECK (status BETWEEN 1 AND 5), -- engine/settlement/states.py
    created_us bigint NOT NULL,
    changed_us bigint NOT NULL
) WITH (fillfactor = 80);

-- The second key is the rule that a trade is settled once, for ever. No foreign key to trades: those can be made again.
CREATE TABLE settlement_trades (
    settlement bigint NOT NULL REFERENCES settlements,
    place integer NOT NULL CHECK (place >= 0),
    market_id integer NOT NULL,
    number bigint NOT NULL,
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    PRIMARY KEY (settlement, place),
    CONSTRAINT settlement_trades_once UNIQUE (market_id, number)
);

-- key: that of the part's row in the outbox, of the kind `settle`.
CREATE TABLE settlement_parts (
    settlement bigint NOT NULL REFERENCES settlements,
    part smallint NOT NULL CHECK (part BETWEEN 0 AND 254),
    key text NOT NULL CONSTRAINT settlement_parts_key UNIQUE,
    status smallint NOT NULL CHECK (status BETWEEN 1 AND 5),
    signature text NOT NULL DEFAULT '',
    changed_us bigint NOT NULL,
    PRIMARY KEY (settlement, part)
) WITH (fillfactor = 80);
CREATE INDEX settlement_parts_open ON settlement_parts (key) WHERE status IN (1, 2, 5);

CREATE TABLE reconciliations (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    settlement bigint NOT NULL, -- the last one then; 0: none
    at_us bigint NOT NULL,
    differences jsonb NOT NULL -- [] when books and chain agreed
);
