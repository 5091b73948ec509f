-- Why: address lookup tables of ours on the chain. Nobody can find one again whose address he does not know, and its
-- rent would be lost. Written before it is made; what it holds stands on the chain alone.
-- Locks: none that matter, the table is new.

CREATE TABLE chain_lookup_tables (
    address text PRIMARY KEY CHECK (length(address) BETWEEN 32 AND 44),
    authority text NOT NULL CHECK (length(authority) BETWEEN 32 AND 44), -- the settler's key then, which may add to it
    created_us bigint NOT NULL
);
CREATE INDEX chain_lookup_tables_newest ON chain_lookup_tables (created_us);
