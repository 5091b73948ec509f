-- Why: what the chain must be told, once each, with the life of its transaction (engine/submission.py); who somebody is
-- on the chain; withdrawals. A row of the outbox becomes a submission by a trigger, so in the transaction of its cause.
-- People come onto the chain with their first wallet, meters with their first signed reading: both cost rent, so not
-- before. Those that have been there before this file are told to the chain too.
-- Locks: triggers take SHARE ROW EXCLUSIVE on outbox, wallets, meters and meter_assignments for a moment.

CREATE TABLE chain_submissions (
    number bigint PRIMARY KEY REFERENCES outbox, -- by which outsiders know it
    kind text NOT NULL,
    key text NOT NULL,
    lane text NOT NULL CHECK (lane IN ('register', 'mint', 'burn', 'settle', 'withdraw', 'oracle', 'govern', 'other')),
    user_id bigint, -- whose; his address is in chain_accounts
    meter bigint,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN (
        'queued', 'built', 'signed', 'sent', 'confirmed', 'finalized', 'failed', 'expired', 'parked')),
    attempt integer NOT NULL DEFAULT 0,
    signature text NOT NULL DEFAULT '' CHECK (length(signature) <= 88),
    raw bytea, -- the signed bytes
    last_height bigint NOT NULL DEFAULT 0, -- until when they can land
    slot bigint NOT NULL DEFAULT 0, -- in which they landed
    refusals integer NOT NULL DEFAULT 0,
    waits integer NOT NULL DEFAULT 0,
    together_max integer NOT NULL DEFAULT 32 CHECK (together_max > 0),
    reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 500),
    lease_owner text NOT NULL DEFAULT '', -- who may change it while it is under way
    lease_until_us bigint NOT NULL DEFAULT 0,
    due_us bigint NOT NULL DEFAULT 0, -- not before
    created_us bigint NOT NULL,
    changed_us bigint NOT NULL,
    CONSTRAINT chain_submissions_effect UNIQUE (kind, key),
    CHECK ((state IN ('signed', 'sent')) <= (signature <> '' AND raw IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX chain_submissions_free ON chain_submissions (lane, due_us) WHERE state IN ('queued', 'failed', 'expired');
CREATE INDEX chain_submissions_open ON chain_submissions (lane, state)
    WHERE state NOT IN ('finalized', 'parked');
CREATE INDEX chain_submissions_parked ON chain_submissions (number) WHERE state = 'parked';
CREATE INDEX chain_submissions_signature ON chain_submissions (signature) WHERE signature <> '';

CREATE FUNCTION chain_lane(kind text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE kind
        WHEN 'user_registered' THEN 'register'
        WHEN 'meter_registered' THEN 'register'
        WHEN 'energy_generated' THEN 'mint'
        WHEN 'deposit_issued' THEN 'mint'
        WHEN 'energy_retired' THEN 'burn'
        WHEN 'energy_revoked' THEN 'burn'
        WHEN 'settle' THEN 'settle'
        WHEN 'withdrawal' THEN 'withdraw'
        WHEN 'oracle' THEN 'oracle'
        WHEN 'governance' THEN 'govern'
        ELSE 'other'
    END
$$;

CREATE FUNCTION chain_submit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chain_submissions (number, kind, key, lane, user_id, meter, due_us, created_us, changed_us)
    SELECT number, kind, key,
        chain_lane(kind),
        coalesce(payload ->> 'owner_id', payload ->> 'user_id')::bigint,
        (payload ->> 'meter')::bigint,
        0, created_us, created_us
    FROM added
    ORDER BY number;
    PERFORM pg_notify('chain', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER outbox_submitted AFTER INSERT ON outbox
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION chain_submit();

-- A participant's address on the chain is that of his platform wallet, for ever; his tokens are in its vault.
CREATE TABLE chain_accounts (
    user_id bigint PRIMARY KEY REFERENCES users,
    address text NOT NULL CONSTRAINT chain_accounts_address_key UNIQUE CHECK (length(address) BETWEEN 32 AND 44),
    vault text NOT NULL CONSTRAINT chain_accounts_vault_key UNIQUE,
    energy text NOT NULL, -- the vault's token accounts
    currency text NOT NULL,
    created_us bigint NOT NULL
);

CREATE FUNCTION chain_register_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (kind, key, payload, created_us)
    VALUES ('user_registered', NEW.user_id::text, jsonb_build_object('user_id', NEW.user_id), NEW.created_us)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER wallets_on_chain AFTER INSERT ON wallets FOR EACH ROW EXECUTE FUNCTION chain_register_user();

CREATE FUNCTION chain_register_meter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (kind, key, payload, created_us)
    SELECT 'meter_registered', NEW.number::text, jsonb_build_object('meter', NEW.number, 'owner_id', a.owner_id),
        NEW.verified_us
    FROM meter_assignments a
    WHERE a.meter = NEW.number
        AND a.valid_from_us <= NEW.verified_us
    ORDER BY a.valid_from_us DESC
    LIMIT 1
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER meters_on_chain AFTER UPDATE OF verified_us ON meters
    FOR EACH ROW WHEN (OLD.verified_us IS NULL AND NEW.verified_us IS NOT NULL)
    EXECUTE FUNCTION chain_register_meter();

-- Money and energy on their way out: in custody from the request until the chain has moved them for good.
CREATE TABLE withdrawals (
    withdrawal_id uuid PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES users,
    asset text NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    address text NOT NULL CHECK (length(address) BETWEEN 32 AND 44), -- of the wallet that it goes to
    reference text NOT NULL CONSTRAINT withdrawals_reference_key UNIQUE CHECK (length(reference) BETWEEN 1 AND 200),
    submission bigint NOT NULL REFERENCES chain_submissions,
    created_us bigint NOT NULL,
    done_us bigint -- when the chain had it for good, and the ledger let it go
);
CREATE INDEX withdrawals_user ON withdrawals (user_id, created_us, withdrawal_id);

-- What the actors of the chain last said of themselves.
CREATE TABLE chain_parts (
    part text PRIMARY KEY,
    at_us bigint NOT NULL,
    said jsonb NOT NULL
);

-- What was there before.
INSERT INTO outbox (kind, key, payload, created_us)
SELECT DISTINCT ON (user_id) 'user_registered', user_id::text, jsonb_build_object('user_id', user_id), created_us
FROM wallets
ORDER BY user_id, created_us
ON CONFLICT DO NOTHING;
INSERT INTO outbox (kind, key, payload, created_us)
SELECT DISTINCT ON (m.number) 'meter_registered', m.number::text,
    jsonb_build_object('meter', m.number, 'owner_id', a.owner_id), m.verified_us
FROM meters m
JOIN meter_assignments a ON a.meter = m.number AND a.valid_from_us <= m.verified_us
WHERE m.verified_us IS NOT NULL
ORDER BY m.number, a.valid_from_us DESC
ON CONFLICT DO NOTHING;
INSERT INTO outbox (kind, key, payload, created_us)
SELECT 'deposit_issued', deposit_id::text, jsonb_build_object(
    'user_id', participant_id, 'deposit_id', deposit_id, 'asset', asset, 'amount', amount), created_us
FROM deposits
ORDER BY deposit_id;
INSERT INTO chain_submissions (number, kind, key, lane, user_id, meter, created_us, changed_us)
SELECT number, kind, key, chain_lane(kind), (payload ->> 'owner_id')::bigint, (payload ->> 'meter')::bigint,
    created_us, created_us
FROM outbox
ON CONFLICT (number) DO NOTHING;
