-- Why: who claims the oldest of a long queue read all that was due at the same moment, to sort it. The index has the
-- whole order now, so a claim reads as many as it takes.
-- Locks: SHARE on chain_submissions while its queue is read, then ACCESS EXCLUSIVE for a moment.

CREATE INDEX chain_submissions_due ON chain_submissions (lane, due_us, number)
    WHERE state IN ('queued', 'failed', 'expired');
DROP INDEX chain_submissions_free;
