-- Why: people whom a directory knows have no password here; each sign of life from the directory is kept.
-- Locks: ACCESS EXCLUSIVE on users while its rows are read once for the checks: some milliseconds per 10,000 people.
ALTER TABLE users
    ADD COLUMN source text NOT NULL DEFAULT 'local' CHECK (source IN ('local', 'directory')),
    ADD COLUMN directory_id bytea CONSTRAINT users_directory_id_key UNIQUE CHECK (length(directory_id) BETWEEN 1 AND 256),
    ADD COLUMN confirmed_us bigint,
    ADD CHECK ((source = 'directory') = (directory_id IS NOT NULL)),
    ADD CHECK ((source = 'directory') = (confirmed_us IS NOT NULL));
