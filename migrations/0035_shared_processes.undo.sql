-- Every market gets a process of its own at the next start.

ALTER TABLE markets
    DROP COLUMN host;
