DROP FUNCTION ledger_book(text[], text[], bigint[], text[], bigint[], bigint[], bigint[], bigint[], bigint[]);
