-- Why: what the chain must be told, written in the transaction of its cause, so that neither is without the other.
-- (kind, key) is the effect's name for ever: the same effect is never queued twice, however often it is tried.
-- Locks: none that matter, the table is new.

CREATE TABLE outbox (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind ~ '^[a-z_]{1,32}$'),
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    payload jsonb NOT NULL,
    created_us bigint NOT NULL,
    CONSTRAINT outbox_effect UNIQUE (kind, key)
);
