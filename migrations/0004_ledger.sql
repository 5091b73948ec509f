-- Why: the double-entry ledger. The database itself enforces its laws, whoever writes:
--   entries of a transfer sum to zero per asset, per inserting statement (so at any time);
--   a balance is the sum of its entries: it changes by inserting entries and in no other way;
--   entries and transfers are never changed or removed;
--   what people own never goes below zero, and what is reserved is never more than what is there.
-- Cost: one statement-level trigger per insert of entries, whatever their number; foreign keys of entries are checked
-- in it by a join, because a check per row would cost more than the insert.
-- Locks: none that matter, every table is new.

CREATE TABLE accounts (
    account_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    participant_id bigint NOT NULL CHECK (participant_id >= 0), -- 0: a system account
    market_id integer NOT NULL CHECK (market_id >= 0), -- 0: not in a market
    asset text NOT NULL CHECK (asset ~ '^([A-Z]{3,10}|energy:[A-Za-z0-9_-]{1,32})$'),
    balance bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0,
    CONSTRAINT accounts_key UNIQUE (participant_id, kind, market_id, asset),
    CONSTRAINT accounts_kind CHECK (
        CASE kind
            WHEN 'main' THEN participant_id > 0 AND market_id = 0
            WHEN 'market' THEN participant_id > 0 AND market_id > 0
            ELSE participant_id = 0
                AND (kind IN ('fees', 'issuance', 'generation', 'retired', 'custody', 'grid') OR kind LIKE 'grid:_%')
        END
    ),
    -- issuance and generation are negative by nature; a grid account lends and borrows energy between zones
    CONSTRAINT accounts_balance_not_negative CHECK (
        balance >= 0 OR kind IN ('issuance', 'generation', 'grid') OR kind LIKE 'grid:%'
    ),
    CONSTRAINT accounts_reserved CHECK (reserved = 0 OR (kind = 'market' AND reserved BETWEEN 0 AND balance))
) WITH (fillfactor = 50); -- balances change all the time and are in no index: updates stay in their page

CREATE TABLE transfers (
    transfer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (length(kind) BETWEEN 1 AND 32),
    reference text NOT NULL CONSTRAINT transfers_reference_key UNIQUE CHECK (length(reference) BETWEEN 1 AND 300),
    time_us bigint NOT NULL
);

CREATE TABLE entries (
    entry_id bigint GENERATED ALWAYS AS IDENTITY,
    transfer_id bigint NOT NULL,
    account_id bigint NOT NULL,
    participant_id bigint NOT NULL, -- the account's, so that a statement is one index range
    amount bigint NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (participant_id, entry_id)
);
-- Entries lie in the order of their transfers: a few pages a transfer, at almost no cost.
CREATE INDEX entries_transfer ON entries USING brin (transfer_id) WITH (pages_per_range = 16);

CREATE FUNCTION ledger_post() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    broken record;
BEGIN
    -- Always in this order, so that two transactions wait for each other in a queue and never in a circle.
    PERFORM 1 FROM accounts WHERE account_id IN (SELECT account_id FROM posted) ORDER BY account_id FOR NO KEY UPDATE;

    SELECT p.transfer_id, p.account_id INTO broken
    FROM posted p
    LEFT JOIN accounts a ON a.account_id = p.account_id AND a.participant_id = p.participant_id
    LEFT JOIN transfers t ON t.transfer_id = p.transfer_id
    WHERE a.account_id IS NULL OR t.transfer_id IS NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING CONSTRAINT = 'entries_known', MESSAGE = format(
            'transfer %s, account %s: no such transfer, no such account, or another participant''s',
            broken.transfer_id, broken.account_id);
    END IF;

    SELECT p.transfer_id, a.asset, sum(p.amount) AS amount INTO broken
    FROM posted p
    JOIN accounts a USING (account_id)
    GROUP BY p.transfer_id, a.asset
    HAVING sum(p.amount) <> 0
    LIMIT 1;
    IF FOUND THEN
        RAISE check_violation USING CONSTRAINT = 'entries_sum_to_zero', MESSAGE = format(
            'transfer %s: its entries in %s sum to %s, not to zero', broken.transfer_id, broken.asset, broken.amount);
    END IF;

    UPDATE accounts a
    SET balance = a.balance + d.amount
    FROM (SELECT account_id, sum(amount)::bigint AS amount FROM posted GROUP BY account_id) d
    WHERE a.account_id = d.account_id AND d.amount <> 0;
    RETURN NULL;
END
$$;
CREATE TRIGGER entries_post AFTER INSERT ON entries
    REFERENCING NEW TABLE AS posted FOR EACH STATEMENT EXECUTE FUNCTION ledger_post();

CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE restrict_violation USING CONSTRAINT = 'ledger_is_append_only', MESSAGE = format(
        '%s of %s: the ledger changes by new entries only', TG_OP, TG_TABLE_NAME);
END
$$;
CREATE TRIGGER entries_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER transfers_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER accounts_keep BEFORE DELETE OR TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER accounts_start_empty BEFORE INSERT ON accounts
    FOR EACH ROW WHEN (NEW.balance <> 0 OR NEW.reserved <> 0) EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER accounts_keep_balance
    BEFORE UPDATE OF balance, account_id, kind, participant_id, market_id, asset ON accounts
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION ledger_refuse();

-- Funds that went into a market; the market's Fund command carries the same number.
CREATE TABLE draws (
    market_id integer NOT NULL CHECK (market_id > 0),
    number bigint NOT NULL CHECK (number > 0),
    participant_id bigint NOT NULL CHECK (participant_id > 0),
    asset text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    transfer_id bigint NOT NULL REFERENCES transfers,
    PRIMARY KEY (market_id, number)
);

CREATE TABLE deposits (
    deposit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    participant_id bigint NOT NULL CHECK (participant_id > 0),
    asset text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    reference text NOT NULL CONSTRAINT deposits_reference_key UNIQUE CHECK (length(reference) BETWEEN 1 AND 200),
    transfer_id bigint NOT NULL REFERENCES transfers,
    created_us bigint NOT NULL
);
CREATE INDEX deposits_participant ON deposits (participant_id, deposit_id);
