-- Why: keys for programs, beside the logins of people; and the rule that somebody can always administer.
-- A key is found by its public prefix and kept as HMAC-SHA256 with a pepper that is not in the database.
-- Locks: users, for a moment, while its trigger is made.

CREATE TABLE api_keys (
    key_id text PRIMARY KEY CHECK (key_id ~ '^[a-z2-7]{16}$'), -- the prefix; never used again
    number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT api_keys_number UNIQUE,
    user_id bigint REFERENCES users ON DELETE CASCADE, -- null: a head-end system's, with nobody behind it
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    scopes text[] NOT NULL CHECK (cardinality(scopes) BETWEEN 1 AND 3 AND scopes <@ ARRAY['read', 'trade', 'meter']),
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    meter_ids text[] NOT NULL DEFAULT '{}', -- that the head-end speaks for
    public_key bytea CHECK (octet_length(public_key) = 32), -- Ed25519, with which it signs readings
    created_us bigint NOT NULL,
    expires_us bigint NOT NULL CHECK (expires_us > created_us),
    used_us bigint, -- about: written at most once a minute
    CONSTRAINT api_keys_head_end CHECK (
        CASE WHEN user_id IS NULL THEN scopes = ARRAY['meter'] ELSE meter_ids = '{}' AND public_key IS NULL END
    )
);
CREATE INDEX api_keys_user ON api_keys (user_id, number);

-- Demotions take their turns, so that each sees the one before it: two admins who demote each other leave one.
CREATE FUNCTION users_keep_an_admin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'41646d696e'::bigint); -- "Admin"
    IF NOT EXISTS (SELECT 1 FROM users WHERE role = 'admin' AND status = 'active' AND user_id <> OLD.user_id) THEN
        RAISE restrict_violation USING CONSTRAINT = 'users_keep_an_admin', MESSAGE = format(
            'user %s is the last admin', OLD.user_id);
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE TRIGGER users_keep_an_admin_changed BEFORE UPDATE OF role, status ON users
    FOR EACH ROW WHEN (
        OLD.role = 'admin' AND OLD.status = 'active' AND (NEW.role <> 'admin' OR NEW.status <> 'active')
    ) EXECUTE FUNCTION users_keep_an_admin();
CREATE TRIGGER users_keep_an_admin_removed BEFORE DELETE ON users
    FOR EACH ROW WHEN (OLD.role = 'admin' AND OLD.status = 'active') EXECUTE FUNCTION users_keep_an_admin();
