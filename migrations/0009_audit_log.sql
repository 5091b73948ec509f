-- Why: who changed what, from where: one row per change, written by audit_append in the transaction of the change.
-- The rows are a hash chain: each holds the SHA-256 of its content and of the row before. engine/audit.py computes the
-- same, and `wattbook audit log verify` compares. Rows are never changed or removed; triggers refuse it in every
-- partition, and the chain shows who got around them.
-- audit_head is the end of the chain. Its row lock lets appends take turns, to the end of their transactions: append
-- last.
-- Partitions are by month of the row. An append makes the one it needs and, from a week before, the next; when somebody
-- holds the table meanwhile, rows land in audit_log_other, which is read like the others.
-- Locks: none that matter, every table is new. Making a partition locks out readers of audit_log for an instant.

CREATE TABLE audit_log (
    number bigint NOT NULL CHECK (number > 0), -- 1, 2, 3, ... without a gap
    at_us bigint NOT NULL, -- of the append; never before the row before
    actor text NOT NULL CHECK (length(actor) BETWEEN 1 AND 100),
    via text NOT NULL CHECK (length(via) <= 200),
    address text NOT NULL CHECK (length(address) <= 100),
    request_id text NOT NULL CHECK (length(request_id) <= 100),
    action text NOT NULL CHECK (action ~ '^[a-z_]+\.[a-z_]+$'),
    subject text NOT NULL CHECK (length(subject) <= 200),
    before json, -- as it was written, because the hash is of the text
    after json,
    previous_hash bytea NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (number, at_us)
) PARTITION BY RANGE (at_us);
CREATE INDEX audit_log_actor ON audit_log (actor, number);
CREATE INDEX audit_log_action ON audit_log (action, number);
CREATE INDEX audit_log_subject ON audit_log (subject, number);

CREATE TABLE audit_head (
    is_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    number bigint NOT NULL,
    at_us bigint NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
) WITH (fillfactor = 50);
INSERT INTO audit_head (number, at_us, hash) VALUES (0, 0, decode(repeat('00', 32), 'hex'));

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE restrict_violation USING CONSTRAINT = 'audit_log_is_append_only', MESSAGE = format(
        '%s of %s: the audit log only grows', TG_OP, TG_TABLE_NAME);
END
$$;
-- By row, because every partition takes these over; a trigger by statement would guard the parent's name alone.
CREATE TRIGGER audit_log_keep BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_log_keep_all BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_head_keep BEFORE DELETE OR TRUNCATE ON audit_head
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

CREATE TABLE audit_log_other PARTITION OF audit_log DEFAULT;
CREATE TRIGGER audit_log_keep_all BEFORE TRUNCATE ON audit_log_other
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

CREATE FUNCTION audit_partition(at_us bigint) RETURNS text LANGUAGE sql STABLE
RETURN 'audit_log_' || to_char(to_timestamp(at_us / 1000000) AT TIME ZONE 'UTC', 'YYYY_MM');

CREATE FUNCTION audit_make_partition(at_us bigint) RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '200ms' AS $$
DECLARE
    month timestamp := date_trunc('month', to_timestamp(at_us / 1000000) AT TIME ZONE 'UTC');
    name text := audit_partition(at_us);
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF audit_log FOR VALUES FROM (%s) TO (%s)', name,
        extract(epoch FROM month)::bigint * 1000000,
        extract(epoch FROM month + interval '1 month')::bigint * 1000000);
    EXECUTE format('CREATE TRIGGER audit_log_keep_all BEFORE TRUNCATE ON %I FOR EACH STATEMENT '
        'EXECUTE FUNCTION audit_refuse()', name);
    RETURN true;
EXCEPTION WHEN lock_not_available OR check_violation THEN
    -- somebody reads the table, or rows of this month are in audit_log_other already
    RETURN false;
END
$$;

-- A length before each field: no two rows have the same bytes.
CREATE FUNCTION audit_field(value text) RETURNS bytea LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN value IS NULL THEN convert_to('-,', 'UTF8')
    ELSE convert_to(octet_length(convert_to(value, 'UTF8')) || ':' || value || ',', 'UTF8')
END;

CREATE FUNCTION audit_append(
    new_actor text, new_via text, new_address text, new_request_id text, new_action text, new_subject text,
    new_before json, new_after json
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    head audit_head;
    new_number bigint;
    new_at_us bigint;
    new_hash bytea;
BEGIN
    SELECT * INTO STRICT head FROM audit_head FOR UPDATE;
    new_number := head.number + 1;
    new_at_us := greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, head.at_us);
    PERFORM audit_make_partition(due)
    FROM unnest(ARRAY[new_at_us, new_at_us + 7 * 86400000000]) AS due
    WHERE to_regclass(audit_partition(due)) IS NULL;
    new_hash := sha256(head.hash || audit_field(new_number::text) || audit_field(new_at_us::text)
        || audit_field(new_actor) || audit_field(new_via) || audit_field(new_address) || audit_field(new_request_id)
        || audit_field(new_action) || audit_field(new_subject)
        || audit_field(new_before::text) || audit_field(new_after::text));
    INSERT INTO audit_log (number, at_us, actor, via, address, request_id, action, subject, before, after,
        previous_hash, hash)
    VALUES (new_number, new_at_us, new_actor, new_via, new_address, new_request_id, new_action, new_subject,
        new_before, new_after, head.hash, new_hash);
    UPDATE audit_head SET number = new_number, at_us = new_at_us, hash = new_hash;
    RETURN new_number;
END
$$;
