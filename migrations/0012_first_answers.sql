-- Why: a write that is repeated with its Idempotency-Key gets its first answer again, whichever gateway it reaches and
-- whatever has crashed meanwhile. A row without a status is a request that runs, or one that never came to an answer.
-- Locks: a new table only.

CREATE TABLE first_answers (
    caller_id bigint NOT NULL, -- a user; below zero: the key of a head-end system, which is no row of users
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 64),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    began_us bigint NOT NULL,
    expires_us bigint NOT NULL CHECK (expires_us > began_us),
    status smallint CHECK (status BETWEEN 200 AND 499),
    media_type text CHECK (length(media_type) <= 100),
    body bytea, -- NULL beside a status: too large to be kept
    body_bytes integer NOT NULL DEFAULT 0 CHECK (body_bytes >= 0),
    PRIMARY KEY (caller_id, key)
);
-- What somebody has stored is counted before he stores more.
CREATE INDEX first_answers_caller ON first_answers (caller_id, expires_us) INCLUDE (body_bytes);
CREATE INDEX first_answers_expiry ON first_answers (expires_us);
