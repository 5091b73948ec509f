-- Throws every balance away.
DROP TABLE deposits;
DROP TABLE draws;
DROP TABLE entries;
DROP TABLE transfers;
DROP TABLE accounts;
DROP FUNCTION ledger_post();
DROP FUNCTION ledger_refuse();
