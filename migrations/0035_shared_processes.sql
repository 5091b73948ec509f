-- Why: a process for each market is too much where most markets have little to do (docs/decisions/0053). `host` is the
-- number of the process that a market shares with others; 0: it shall share one, the supervisor has not chosen yet;
-- null: it has a process of its own, as all had before.
-- Locks: ACCESS EXCLUSIVE on markets for a moment; a column without a default rewrites nothing.

ALTER TABLE markets
    ADD COLUMN host integer CHECK (host >= 0);
