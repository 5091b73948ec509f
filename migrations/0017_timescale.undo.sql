-- Hypertables cannot become plain tables again in place: with TimescaleDB, go back by restoring a dump.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        RAISE EXCEPTION 'this database uses TimescaleDB: restore a dump into one without it instead';
    END IF;
END
$$;
DROP FUNCTION metering_has_timescale();
DROP FUNCTION metering_now_us();
