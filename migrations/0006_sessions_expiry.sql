-- Why: sessions that expired long ago are swept at each login, a few at a time, and must be found by their expiry.
-- Locks: SHARE on sessions while the index is made: logins wait, for milliseconds per 10,000 sessions.
CREATE INDEX sessions_expiry ON sessions (expires_us);
