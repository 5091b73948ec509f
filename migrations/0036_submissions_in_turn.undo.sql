CREATE INDEX chain_submissions_free ON chain_submissions (lane, due_us) WHERE state IN ('queued', 'failed', 'expired');
DROP INDEX chain_submissions_due;
