DROP TABLE chain_cursors;
DROP TABLE chain_events;
