DROP TABLE chain_lookup_tables;
