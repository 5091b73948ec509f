DROP TABLE rates;
DROP FUNCTION energy_roll_up(
    bigint[], bigint[], bigint[], text[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[]
);
ALTER TABLE energy_rollups RENAME TO energy_rollups_by_owner;
CREATE TABLE energy_rollups (
    meter bigint NOT NULL REFERENCES meters,
    seconds integer NOT NULL CHECK (seconds IN (3600, 86400)),
    start_us bigint NOT NULL,
    import_wh bigint NOT NULL,
    export_wh bigint NOT NULL,
    power_w_max bigint NOT NULL DEFAULT 0,
    CONSTRAINT energy_rollups_pkey1 PRIMARY KEY (meter, seconds, start_us)
);
INSERT INTO energy_rollups
SELECT meter, seconds, start_us, sum(import_wh), sum(export_wh), max(power_w_max)
FROM energy_rollups_by_owner
GROUP BY meter, seconds, start_us;
DROP TABLE energy_rollups_by_owner;
ALTER INDEX energy_rollups_pkey1 RENAME TO energy_rollups_pkey;
DROP INDEX energy_adjustments_zone;
ALTER TABLE energy_adjustments
    DROP COLUMN import_estimated_wh,
    DROP COLUMN export_estimated_wh;
