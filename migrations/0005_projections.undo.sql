-- Can be made again from the journal.
DROP TABLE epochs;
DROP TABLE candles;
DROP TABLE positions;
DROP TABLE trades;
DROP TABLE orders;
DROP TABLE cursors;
