-- Why: hours and days of a meter by whose they were and where, so that reports and flows of months are quick to ask for;
-- what an adjustment takes of a window's estimates, so that windows and adjustments simply add up; rates by which energy
-- is valued. energy_rollups is filled anew; nothing was released that knows its first form.
-- Locks: ACCESS EXCLUSIVE on energy_rollups and energy_adjustments until the rollups are computed; the aggregators wait.

-- What was estimated counts no more from the first adjustment of its window on: that one takes it back.
ALTER TABLE energy_adjustments
    ADD COLUMN import_estimated_wh bigint NOT NULL DEFAULT 0 CHECK (import_estimated_wh <= 0),
    ADD COLUMN export_estimated_wh bigint NOT NULL DEFAULT 0 CHECK (export_estimated_wh <= 0);
CREATE INDEX energy_adjustments_zone ON energy_adjustments (zone, start_us);
UPDATE energy_adjustments a
SET import_estimated_wh = -f.import_estimated_wh,
    export_estimated_wh = -f.export_estimated_wh
FROM (
    SELECT DISTINCT ON (meter, start_us) meter, start_us, p.device, p.counter, w.import_estimated_wh,
        w.export_estimated_wh
    FROM energy_adjustments p
    JOIN energy_windows w USING (meter, start_us)
    WHERE p.posted_us IS NOT NULL
    ORDER BY meter, start_us, p.posted_us, p.device, p.counter
) f
WHERE (a.meter, a.start_us, a.device, a.counter) = (f.meter, f.start_us, f.device, f.counter);

DROP TABLE energy_rollups;
CREATE TABLE energy_rollups (
    meter bigint NOT NULL REFERENCES meters,
    seconds integer NOT NULL CHECK (seconds IN (3600, 86400)),
    start_us bigint NOT NULL,
    owner_id bigint NOT NULL, -- at that time, as the zone
    zone text NOT NULL,
    import_wh bigint NOT NULL,
    export_wh bigint NOT NULL,
    import_estimated_wh bigint NOT NULL,
    export_estimated_wh bigint NOT NULL,
    credited_wh bigint NOT NULL,
    retired_wh bigint NOT NULL,
    power_w_max bigint NOT NULL, -- of its windows, on average
    PRIMARY KEY (meter, seconds, start_us, owner_id, zone)
) WITH (fillfactor = 70); -- each row is counted into many times, and should stay beside its neighbours
CREATE INDEX energy_rollups_owner ON energy_rollups (owner_id, seconds, start_us);
CREATE INDEX energy_rollups_zone ON energy_rollups (zone, seconds, start_us);

-- Counts windows, or posted adjustments, into their hours and days. The posting calls it in its transaction.
CREATE FUNCTION energy_roll_up(
    meters bigint[], starts_us bigint[], owners bigint[], zones text[], imports_wh bigint[], exports_wh bigint[],
    imports_estimated_wh bigint[], exports_estimated_wh bigint[], credits_wh bigint[], retirements_wh bigint[],
    powers_w bigint[]
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO energy_rollups AS r
    SELECT w.meter, s.seconds, w.start_us / (s.seconds * 1000000::bigint) * (s.seconds * 1000000::bigint) AS step_us,
        w.owner_id, w.zone, sum(w.import_wh), sum(w.export_wh), sum(w.import_estimated_wh), sum(w.export_estimated_wh),
        sum(w.credited_wh), sum(w.retired_wh), max(w.power_w)
    FROM unnest(meters, starts_us, owners, zones, imports_wh, exports_wh, imports_estimated_wh, exports_estimated_wh,
            credits_wh, retirements_wh, powers_w)
        AS w (meter, start_us, owner_id, zone, import_wh, export_wh, import_estimated_wh, export_estimated_wh,
            credited_wh, retired_wh, power_w)
    CROSS JOIN (VALUES (3600), (86400)) AS s (seconds)
    GROUP BY w.meter, s.seconds, step_us, w.owner_id, w.zone
    ORDER BY w.meter, s.seconds, step_us
    ON CONFLICT (meter, seconds, start_us, owner_id, zone) DO UPDATE
        SET import_wh = r.import_wh + EXCLUDED.import_wh,
            export_wh = r.export_wh + EXCLUDED.export_wh,
            import_estimated_wh = r.import_estimated_wh + EXCLUDED.import_estimated_wh,
            export_estimated_wh = r.export_estimated_wh + EXCLUDED.export_estimated_wh,
            credited_wh = r.credited_wh + EXCLUDED.credited_wh,
            retired_wh = r.retired_wh + EXCLUDED.retired_wh,
            power_w_max = greatest(r.power_w_max, EXCLUDED.power_w_max)
$$;

INSERT INTO energy_rollups
SELECT meter, s.seconds, start_us / (s.seconds * 1000000::bigint) * (s.seconds * 1000000::bigint) AS step_us, owner_id,
    zone, sum(import_wh), sum(export_wh), sum(import_estimated_wh), sum(export_estimated_wh), sum(credited_wh),
    sum(retired_wh), max(power_w)
FROM (
    SELECT meter, start_us, owner_id, zone, import_wh, export_wh, import_estimated_wh, export_estimated_wh,
        credited_wh, retired_wh, greatest(import_wh, export_wh) * 4 AS power_w
    FROM energy_windows
    UNION ALL
    SELECT meter, start_us, owner_id, zone, import_wh, export_wh, import_estimated_wh, export_estimated_wh,
        credited_wh, retired_wh, 0
    FROM energy_adjustments
    WHERE posted_us IS NOT NULL
) w
CROSS JOIN (VALUES (3600), (86400)) AS s (seconds)
GROUP BY meter, s.seconds, step_us, owner_id, zone;

-- By what energy is valued, each rate from an instant on until its next one. Rows are added, and put right.
CREATE TABLE rates (
    name text NOT NULL CHECK (name IN ('retail_price', 'feed_in_price', 'emission_factor')),
    valid_from_us bigint NOT NULL CHECK (valid_from_us >= 0),
    value bigint NOT NULL CHECK (value >= 0), -- micro-currency per kWh; of the emission factor, mg of CO2e per kWh
    PRIMARY KEY (name, valid_from_us)
);
