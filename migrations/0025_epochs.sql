-- Why: epochs have a life of their own: how far each is, and what its auction came to, with the certificate by which
-- anybody can check it. Trades say whether an auction made them; a market, how long its auctions collect.
-- Locks: ACCESS EXCLUSIVE on three tables for a moment each; no default needs a rewrite. The old code inserts rows
-- without the new columns, and goes on working.

ALTER TABLE markets
    ADD COLUMN call_seconds integer NOT NULL DEFAULT 0 CHECK (call_seconds >= 0); -- 0: a tenth of the epoch

ALTER TABLE trades
    ADD COLUMN by_auction boolean NOT NULL DEFAULT false;

ALTER TABLE epochs
    ADD COLUMN phase smallint NOT NULL DEFAULT 4 CHECK (phase BETWEEN 2 AND 4), -- open, clearing, cleared
    ADD COLUMN trade_first bigint, -- numbers of its trades; NULL while there is none
    ADD COLUMN trade_last bigint,
    ADD COLUMN orders integer NOT NULL DEFAULT 0 CHECK (orders >= 0), -- that took part in the auction
    ADD COLUMN price_micro bigint NOT NULL DEFAULT 0, -- at which sellers sold in it, if it was one price; else 0
    ADD COLUMN cleared_wh bigint NOT NULL DEFAULT 0 CHECK (cleared_wh >= 0),
    ADD COLUMN surplus_wh bigint NOT NULL DEFAULT 0, -- bids less asks
    ADD COLUMN welfare_micro bigint NOT NULL DEFAULT 0,
    ADD COLUMN welfare_max_micro bigint NOT NULL DEFAULT 0,
    ADD COLUMN orders_hash text NOT NULL DEFAULT '', -- SHA-256 of the certificate's orders; '' without an auction
    ADD COLUMN zones jsonb NOT NULL DEFAULT '[]', -- engine.messages.ZonePrice
    ADD COLUMN certificate bytea, -- JSON, NULL without an auction
    ADD CHECK (welfare_micro <= welfare_max_micro);
