DROP TABLE reconciliations;
DROP TABLE settlement_parts;
DROP TABLE settlement_trades;
DROP TABLE settlements;
DROP TABLE settlement_cursors;
DROP TABLE settlement_head;
