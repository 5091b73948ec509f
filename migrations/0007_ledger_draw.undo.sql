DROP FUNCTION ledger_draw(integer, bigint, bigint[], text[], bigint[], bigint[], bigint[], bigint[]);
