-- Throws the journal away.
DROP TABLE snapshots;
DROP TABLE journal;
DROP TABLE market_owners;
