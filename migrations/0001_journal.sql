-- Why: the journal is the truth of every market; owners and snapshots go with it.
-- Locks: none that matter, every table is new.
-- The primary key (market_id, first_sequence) is the fence: two owners of a market cannot both write a row.
-- The owner's generation is the polite form of the same: an owner learns at its next append that it was replaced.

CREATE TABLE market_owners (
    market_id integer PRIMARY KEY CHECK (market_id > 0),
    generation bigint NOT NULL CHECK (generation > 0),
    owned_us bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
) WITH (fillfactor = 50);

CREATE TABLE journal (
    market_id integer NOT NULL CHECK (market_id > 0),
    first_sequence bigint NOT NULL CHECK (first_sequence > 0),
    last_sequence bigint NOT NULL,
    engine_version integer NOT NULL CHECK (engine_version > 0),
    entries bytea NOT NULL,
    events_hash bytea NOT NULL CHECK (octet_length(events_hash) = 32),
    state_hash bytea NOT NULL CHECK (octet_length(state_hash) IN (0, 32)),
    previous_hash bytea NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    committed_us bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    CHECK (last_sequence >= first_sequence),
    PRIMARY KEY (market_id, first_sequence)
) PARTITION BY LIST (market_id);

-- Appends are on the order path: no time for a compression that rarely pays. Partitions copy this.
ALTER TABLE journal ALTER COLUMN entries SET STORAGE EXTERNAL;

CREATE TABLE snapshots (
    market_id integer NOT NULL CHECK (market_id > 0),
    sequence bigint NOT NULL CHECK (sequence >= 0), -- 0: before the first command
    engine_version integer NOT NULL CHECK (engine_version > 0),
    state_hash bytea NOT NULL CHECK (octet_length(state_hash) = 32),
    journal_hash bytea NOT NULL CHECK (octet_length(journal_hash) = 32),
    state bytea NOT NULL, -- zlib
    state_bytes bigint NOT NULL CHECK (state_bytes >= 0), -- before compression
    taken_us bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    PRIMARY KEY (market_id, sequence)
);
ALTER TABLE snapshots ALTER COLUMN state SET STORAGE EXTERNAL;
