-- Why: with TimescaleDB, readings, verdicts, windows and adjustments become hypertables, old chunks are compressed, and
-- hours and days are continuous aggregates instead of rows that the posting writes. The queries stay as they are:
-- energy_rollups, energy_roll_up and the functions that make and drop partitions keep their names and columns.
-- This is the one file that knows TimescaleDB. It looks for an extension that the server can load, in an edition that has
-- compression and continuous aggregates; without one it does nothing, and months are plain partitions.
-- Locks: none without the extension. With it ACCESS EXCLUSIVE on these tables while their rows are moved.

CREATE FUNCTION metering_has_timescale() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
        AND current_setting('shared_preload_libraries') ~ '\mtimescaledb\M'
        AND coalesce(current_setting('timescaledb.license', true), 'timescale') = 'timescale'
$$;

-- Instants are integers, so TimescaleDB must be told what time it is.
CREATE FUNCTION metering_now_us() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT (extract(epoch FROM now()) * 1000000)::bigint
$$;

DO $do$
DECLARE
    day_us CONSTANT bigint := 86400000000;
    parent text;
    key text;
    step bigint;
    kind text;
BEGIN
    IF NOT metering_has_timescale() THEN
        RETURN;
    END IF;
    EXECUTE 'CREATE EXTENSION IF NOT EXISTS timescaledb';

    -- Partitioned tables cannot become hypertables: their rows move to tables that can.
    FOREACH parent IN ARRAY ARRAY['readings', 'reading_verdicts'] LOOP
        EXECUTE format('ALTER TABLE %I RENAME TO %I', parent, parent || '_by_month');
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', parent, parent || '_by_month');
        EXECUTE format('INSERT INTO %I SELECT * FROM %I', parent, parent || '_by_month');
        EXECUTE format('DROP TABLE %I', parent || '_by_month');
    END LOOP;
    EXECUTE 'ALTER TABLE readings ADD PRIMARY KEY (meter, start_us, device, counter)';
    EXECUTE 'CREATE INDEX readings_counter ON readings (meter, device, counter)';
    EXECUTE 'CREATE INDEX readings_corrects ON readings (meter, device, corrects) WHERE corrects IS NOT NULL';
    EXECUTE 'CREATE INDEX readings_register ON readings (meter, device, counter) WHERE import_register_wh IS NOT NULL';
    EXECUTE 'CREATE INDEX readings_received ON readings USING brin (received_us)';
    EXECUTE 'CREATE INDEX reading_verdicts_meter ON reading_verdicts (meter, at_us)';

    FOR parent, key IN VALUES ('readings', 'start_us'), ('reading_verdicts', 'at_us'), ('energy_windows', 'start_us'),
        ('energy_adjustments', 'start_us')
    LOOP
        PERFORM create_hypertable(parent::regclass, key::name, chunk_time_interval => 30 * day_us,
            create_default_indexes => false, migrate_data => true);
        PERFORM set_integer_now_func(parent::regclass, 'metering_now_us'::regproc);
    END LOOP;
    EXECUTE 'ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_segmentby = ''meter'', '
        'timescaledb.compress_orderby = ''start_us, device, counter'')';
    EXECUTE 'ALTER TABLE energy_windows SET (timescaledb.compress, timescaledb.compress_segmentby = ''meter'', '
        'timescaledb.compress_orderby = ''start_us'')';
    -- A reading is at most 7 days old when it comes, and what it changes is posted at once: chunks of before stay as they are.
    PERFORM add_compression_policy('readings'::regclass, 45 * day_us);
    PERFORM add_compression_policy('energy_windows'::regclass, 45 * day_us);

    EXECUTE 'DROP TABLE energy_rollups';
    FOR step, kind IN VALUES (3600000000, 'hours'), (day_us, 'days') LOOP
        EXECUTE format($sql$
            CREATE MATERIALIZED VIEW energy_windows_%s
            WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
            SELECT meter, owner_id, zone, time_bucket(%s::bigint, start_us) AS start_us, sum(import_wh) AS import_wh,
                sum(export_wh) AS export_wh, sum(import_estimated_wh) AS import_estimated_wh,
                sum(export_estimated_wh) AS export_estimated_wh, sum(credited_wh) AS credited_wh,
                sum(retired_wh) AS retired_wh, max(greatest(import_wh, export_wh)) * 4 AS power_w_max
            FROM energy_windows
            GROUP BY meter, owner_id, zone, 4
            WITH NO DATA
        $sql$, kind, step);
        EXECUTE format($sql$
            CREATE MATERIALIZED VIEW energy_adjustments_%s
            WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
            SELECT meter, owner_id, zone, time_bucket(%s::bigint, start_us) AS start_us, sum(import_wh) AS import_wh,
                sum(export_wh) AS export_wh, sum(import_estimated_wh) AS import_estimated_wh,
                sum(export_estimated_wh) AS export_estimated_wh, sum(credited_wh) AS credited_wh,
                sum(retired_wh) AS retired_wh, 0::bigint AS power_w_max
            FROM energy_adjustments
            WHERE posted_us IS NOT NULL
            GROUP BY meter, owner_id, zone, 4
            WITH NO DATA
        $sql$, kind, step);
        FOREACH parent IN ARRAY ARRAY['energy_windows_', 'energy_adjustments_'] LOOP
            PERFORM add_continuous_aggregate_policy((parent || kind)::regclass, start_offset => 40 * day_us,
                end_offset => 2 * step, schedule_interval => interval '15 minutes');
        END LOOP;
    END LOOP;
    EXECUTE $sql$
        CREATE VIEW energy_rollups AS
        SELECT meter, 3600 AS seconds, start_us, owner_id, zone, import_wh, export_wh, import_estimated_wh,
            export_estimated_wh, credited_wh, retired_wh, power_w_max FROM energy_windows_hours
        UNION ALL
        SELECT meter, 3600 AS seconds, start_us, owner_id, zone, import_wh, export_wh, import_estimated_wh,
            export_estimated_wh, credited_wh, retired_wh, power_w_max FROM energy_adjustments_hours
        UNION ALL
        SELECT meter, 86400 AS seconds, start_us, owner_id, zone, import_wh, export_wh, import_estimated_wh,
            export_estimated_wh, credited_wh, retired_wh, power_w_max FROM energy_windows_days
        UNION ALL
        SELECT meter, 86400 AS seconds, start_us, owner_id, zone, import_wh, export_wh, import_estimated_wh,
            export_estimated_wh, credited_wh, retired_wh, power_w_max FROM energy_adjustments_days
    $sql$;
    EXECUTE $sql$
        CREATE OR REPLACE FUNCTION energy_roll_up(
            meters bigint[], starts_us bigint[], owners bigint[], zones text[], imports_wh bigint[],
            exports_wh bigint[], imports_estimated_wh bigint[], exports_estimated_wh bigint[], credits_wh bigint[],
            retirements_wh bigint[], powers_w bigint[]
        ) RETURNS void LANGUAGE sql AS 'SELECT' -- the continuous aggregates see for themselves
    $sql$;
    EXECUTE $sql$
        CREATE OR REPLACE FUNCTION metering_make_partitions(from_us bigint, to_us bigint) RETURNS integer
        LANGUAGE sql AS 'SELECT 0' -- chunks make themselves
    $sql$;
    EXECUTE $sql$
        CREATE OR REPLACE FUNCTION metering_drop_partitions(parent text, before_us bigint) RETURNS SETOF text
        LANGUAGE sql AS 'SELECT drop_chunks(parent::regclass, older_than => before_us)::text'
    $sql$;
END
$do$;
