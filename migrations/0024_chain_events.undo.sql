DROP INDEX settlements_final;
DROP INDEX settlements_open;
DROP TABLE chain_cursors;
DROP TABLE chain_events;
