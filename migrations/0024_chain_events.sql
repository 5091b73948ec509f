-- Why: what happened on the chain, each event once, as confirmed and later as final or dropped by a fork; and up to where
-- the final history of each program has been read. A deposit is credited in the transaction in which its event becomes
-- final, whose cursor moves in the same.
-- Reconciliation asks which settlements are open, and which became final since it looked last.
-- Locks: two indexes on settlements, which is small and written by one process.

CREATE TABLE chain_events (
    signature text NOT NULL CHECK (length(signature) <= 88),
    instruction integer NOT NULL CHECK (instruction >= 0),
    index integer NOT NULL CHECK (index >= 0),
    slot bigint NOT NULL,
    program text NOT NULL,
    name text NOT NULL,
    fields jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('confirmed', 'finalized', 'dropped')),
    seen_us bigint NOT NULL,
    final_us bigint,
    CONSTRAINT chain_events_place PRIMARY KEY (signature, instruction, index)
);
CREATE INDEX chain_events_order ON chain_events (slot, signature, instruction, index);
CREATE INDEX chain_events_unsure ON chain_events (slot) WHERE state = 'confirmed';
CREATE INDEX chain_events_of_vault ON chain_events ((fields ->> 'vault'), slot) WHERE name = 'Deposited';

CREATE TABLE chain_cursors (
    program text PRIMARY KEY,
    signature text NOT NULL, -- the last one of the final history that was taken up
    slot bigint NOT NULL,
    at_us bigint NOT NULL
);

CREATE INDEX settlements_open ON settlements (number) WHERE status <> 4;
CREATE INDEX settlements_final ON settlements (changed_us) WHERE status = 4;
