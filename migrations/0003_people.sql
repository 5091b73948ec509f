-- Why: users, their sessions, and the login failures of a time when the cache is away.
-- Locks: none that matter, every table is new.

CREATE TABLE users (
    user_id bigint GENERATED ALWAYS AS IDENTITY (START WITH 1001) PRIMARY KEY,
    email text NOT NULL CONSTRAINT users_email_key UNIQUE CHECK (length(email) BETWEEN 3 AND 320),
    name text NOT NULL CHECK (length(name) <= 200),
    role text NOT NULL CHECK (role IN ('student', 'faculty', 'admin', 'ami')),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    zone text NOT NULL REFERENCES zones,
    password_hash bytea NOT NULL,
    created_us bigint NOT NULL
);
CREATE INDEX users_admins ON users (user_id) WHERE role = 'admin';

-- One row is one family of refresh tokens, of which only the newest is good.
CREATE TABLE sessions (
    session_id text PRIMARY KEY CHECK (length(session_id) BETWEEN 1 AND 128),
    user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
    refresh_hash bytea NOT NULL,
    created_us bigint NOT NULL,
    used_us bigint NOT NULL,
    expires_us bigint NOT NULL,
    ended_us bigint
);
CREATE INDEX sessions_user ON sessions (user_id) WHERE ended_us IS NULL;
CREATE INDEX sessions_ended ON sessions (ended_us) WHERE ended_us IS NOT NULL;

CREATE TABLE login_failures (
    subject text PRIMARY KEY CHECK (length(subject) BETWEEN 1 AND 400),
    failures integer NOT NULL CHECK (failures > 0),
    window_ends_us bigint NOT NULL
);
CREATE INDEX login_failures_end ON login_failures (window_ends_us);
