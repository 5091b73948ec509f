-- Why: the oldest rows of a journal may move into files; this says which, and what must be in them.
-- Locks: none, the table is new. A version before this one does not find rows that have moved: undo refuses then.

CREATE TABLE journal_archives (
    market_id integer NOT NULL CHECK (market_id > 0),
    first_sequence bigint NOT NULL CHECK (first_sequence > 0),
    last_sequence bigint NOT NULL,
    journal_rows integer NOT NULL CHECK (journal_rows > 0),
    previous_hash bytea NOT NULL CHECK (octet_length(previous_hash) = 32), -- of the row before the first
    hash bytea NOT NULL CHECK (octet_length(hash) = 32), -- of the last row
    file_bytes bigint NOT NULL CHECK (file_bytes > 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32), -- of the file
    archived_us bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
    CHECK (last_sequence >= first_sequence),
    PRIMARY KEY (market_id, first_sequence),
    UNIQUE (market_id, last_sequence)
);
