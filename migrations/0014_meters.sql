-- Why: meters, the keys they sign with, who owns them since when; their readings, what became of those, and windows.
-- Readings and verdicts are partitioned by month, readings by that of their start, verdicts by that of their arrival.
-- metering_make_partitions makes those of a span ahead of need; what lands in no month's partition is in ..._other.
-- Meters are numbered, because a row of a reading is hardly longer than a UUID.
-- Locks: none that matter, every table is new; foreign keys take SHARE ROW EXCLUSIVE on users and zones for a moment.

CREATE TABLE meters (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    meter_id uuid NOT NULL CONSTRAINT meters_meter_id_key UNIQUE,
    serial text NOT NULL CONSTRAINT meters_serial_key UNIQUE CHECK (serial ~ '^[A-Z0-9._:/]{1,64}$'), -- canonical
    kind text NOT NULL CHECK (kind IN ('consumer', 'producer', 'prosumer')),
    rated_power_w integer NOT NULL CHECK (rated_power_w > 0),
    register_wh_max bigint NOT NULL CHECK (register_wh_max > 0),
    status text NOT NULL DEFAULT 'registered' CHECK (status IN ('registered', 'verified', 'retired')),
    retires boolean NOT NULL DEFAULT true, -- the owner's energy is retired against what the meter imports
    device integer NOT NULL DEFAULT 1 CHECK (device > 0), -- counts exchanges
    verified_us bigint, -- when the first reading that its key signed arrived; from then on it earns energy
    created_us bigint NOT NULL
);

-- Keys follow one another; the newest is the one that counts. algorithm ed25519: 32 bytes; ecdsa: DER, for OCMF.
CREATE TABLE meter_keys (
    meter bigint NOT NULL REFERENCES meters,
    algorithm text NOT NULL CHECK (algorithm IN ('ed25519', 'ecdsa')),
    version integer NOT NULL CHECK (version > 0),
    public_key bytea NOT NULL CHECK (octet_length(public_key) BETWEEN 32 AND 512),
    created_us bigint NOT NULL,
    PRIMARY KEY (meter, algorithm, version)
);

-- Who owned a meter, and in which zone it was, from when on. The first assignment holds from the beginning of time,
-- because readings may be older than their meter's registration. Rows are never changed: what was earned stays earned.
CREATE TABLE meter_assignments (
    meter bigint NOT NULL REFERENCES meters,
    valid_from_us bigint NOT NULL,
    owner_id bigint NOT NULL REFERENCES users,
    zone text NOT NULL REFERENCES zones,
    created_us bigint NOT NULL,
    PRIMARY KEY (meter, valid_from_us)
);
CREATE INDEX meter_assignments_owner ON meter_assignments (owner_id);

CREATE FUNCTION meter_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('meters', CASE TG_TABLE_NAME WHEN 'meters' THEN to_jsonb(NEW) ->> 'number'
        ELSE to_jsonb(NEW) ->> 'meter' END);
    RETURN NULL;
END
$$;
CREATE TRIGGER meters_changed AFTER UPDATE ON meters FOR EACH ROW EXECUTE FUNCTION meter_changed();
CREATE TRIGGER meter_keys_changed AFTER INSERT ON meter_keys FOR EACH ROW EXECUTE FUNCTION meter_changed();
CREATE TRIGGER meter_assignments_changed AFTER INSERT ON meter_assignments
    FOR EACH ROW EXECUTE FUNCTION meter_changed();

-- An accepted reading, whatever its form, as an interval and its energy; engine/metering/readings.py, Stored.
CREATE TABLE readings (
    meter bigint NOT NULL,
    device integer NOT NULL,
    counter bigint NOT NULL CHECK (counter >= 0),
    start_us bigint NOT NULL,
    end_us bigint NOT NULL CHECK (end_us >= start_us),
    import_wh bigint NOT NULL CHECK (import_wh >= 0),
    export_wh bigint NOT NULL CHECK (export_wh >= 0),
    corrects bigint,
    import_register_wh bigint,
    export_register_wh bigint,
    flags smallint NOT NULL,
    received_us bigint NOT NULL, -- when it was known
    signature bytea, -- the meter's own; null: of a batch that its head-end signed
    PRIMARY KEY (meter, start_us, device, counter)
) PARTITION BY RANGE (start_us);
CREATE INDEX readings_counter ON readings (meter, device, counter);
CREATE INDEX readings_corrects ON readings (meter, device, corrects) WHERE corrects IS NOT NULL;
CREATE INDEX readings_register ON readings (meter, device, counter) WHERE import_register_wh IS NOT NULL;
CREATE INDEX readings_received ON readings USING brin (received_us);

-- Readings that were refused, of meters that exist: what a head-end's operator looks for.
CREATE TABLE reading_verdicts (
    at_us bigint NOT NULL,
    meter bigint NOT NULL,
    counter numeric(20) NOT NULL, -- as it came, so up to 64 bits
    code smallint NOT NULL,
    detail text NOT NULL CHECK (length(detail) <= 200)
) PARTITION BY RANGE (at_us);
CREATE INDEX reading_verdicts_meter ON reading_verdicts (meter, at_us);

CREATE TABLE readings_other PARTITION OF readings DEFAULT;
CREATE TABLE reading_verdicts_other PARTITION OF reading_verdicts DEFAULT;

-- Closed windows. The primary key is the rule that a window is credited once, for ever.
CREATE TABLE energy_windows (
    meter bigint NOT NULL REFERENCES meters,
    start_us bigint NOT NULL CHECK (start_us % 900000000 = 0),
    owner_id bigint NOT NULL, -- at that time
    zone text NOT NULL,
    import_wh bigint NOT NULL CHECK (import_wh >= 0),
    export_wh bigint NOT NULL CHECK (export_wh >= 0),
    covered_us integer NOT NULL CHECK (covered_us BETWEEN 0 AND 900000000),
    import_estimated_wh bigint NOT NULL DEFAULT 0 CHECK (import_estimated_wh >= 0),
    export_estimated_wh bigint NOT NULL DEFAULT 0 CHECK (export_estimated_wh >= 0),
    credited_wh bigint NOT NULL CHECK (credited_wh >= 0),
    retired_wh bigint NOT NULL CHECK (retired_wh >= 0),
    closed_us bigint NOT NULL,
    PRIMARY KEY (meter, start_us)
);
CREATE INDEX energy_windows_owner ON energy_windows (owner_id, start_us);
CREATE INDEX energy_windows_zone ON energy_windows (zone, start_us);

-- What a late reading or a correction changes about a closed window: written with the reading, posted soon after.
CREATE TABLE energy_adjustments (
    meter bigint NOT NULL REFERENCES meters,
    start_us bigint NOT NULL CHECK (start_us % 900000000 = 0),
    device integer NOT NULL,
    counter bigint NOT NULL,
    import_wh bigint NOT NULL,
    export_wh bigint NOT NULL,
    made_us bigint NOT NULL,
    owner_id bigint,
    zone text,
    credited_wh bigint, -- below zero: taken back
    retired_wh bigint,
    posted_us bigint,
    PRIMARY KEY (meter, start_us, device, counter),
    CHECK ((posted_us IS NULL) = (credited_wh IS NULL) AND (posted_us IS NULL) = (retired_wh IS NULL))
);
CREATE INDEX energy_adjustments_open ON energy_adjustments (meter) WHERE posted_us IS NULL;
CREATE INDEX energy_adjustments_owner ON energy_adjustments (owner_id, start_us);

-- Energy that was credited, sold and then corrected away: the next credits pay it first.
CREATE TABLE energy_debts (
    owner_id bigint NOT NULL,
    zone text NOT NULL,
    debt_wh bigint NOT NULL CHECK (debt_wh >= 0),
    PRIMARY KEY (owner_id, zone)
);

-- Hours and days of a meter, so that months are quick to ask for. Measured energy with its adjustments.
CREATE TABLE energy_rollups (
    meter bigint NOT NULL REFERENCES meters,
    seconds integer NOT NULL CHECK (seconds IN (3600, 86400)),
    start_us bigint NOT NULL,
    import_wh bigint NOT NULL,
    export_wh bigint NOT NULL,
    power_w_max bigint NOT NULL DEFAULT 0, -- of its windows, on average
    PRIMARY KEY (meter, seconds, start_us)
);

CREATE FUNCTION metering_make_partitions(from_us bigint, to_us bigint) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
    month timestamp;
    parent text;
    name text;
    made integer := 0;
BEGIN
    FOR month IN SELECT generate_series(
        date_trunc('month', to_timestamp(from_us / 1000000) AT TIME ZONE 'UTC'),
        to_timestamp(to_us / 1000000) AT TIME ZONE 'UTC', interval '1 month')
    LOOP
        FOREACH parent IN ARRAY ARRAY['readings', 'reading_verdicts'] LOOP
            name := parent || to_char(month, '_YYYY_MM');
            CONTINUE WHEN to_regclass(name) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)', name, parent,
                extract(epoch FROM month)::bigint * 1000000,
                extract(epoch FROM month + interval '1 month')::bigint * 1000000);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

-- Drops the months of a table that ended before this instant; returns their names.
CREATE FUNCTION metering_drop_partitions(parent text, before_us bigint) RETURNS SETOF text
LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
    name text;
    last text := parent || to_char(to_timestamp(before_us / 1000000) AT TIME ZONE 'UTC', '_YYYY_MM');
BEGIN
    FOR name IN
        SELECT child.relname
        FROM pg_inherits i
        JOIN pg_class child ON child.oid = i.inhrelid
        WHERE i.inhparent = parent::regclass AND child.relname ~ '_\d{4}_\d{2}$' AND child.relname < last COLLATE "C"
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        RETURN NEXT name;
    END LOOP;
END
$$;
