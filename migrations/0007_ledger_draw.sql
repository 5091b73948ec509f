-- Why: an order that lacks funds waits for a draw. BEGIN, lock, insert, COMMIT were four round trips; this is one.
-- Locks: none, a new function. Old code does not call it.
-- Each want is granted whole or not at all, in order; the granted ones get consecutive numbers.
CREATE FUNCTION ledger_draw(
    market integer, number_first bigint, participants bigint[], assets text[], mains bigint[], insides bigint[],
    amounts bigint[], at_mosts bigint[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    granted bigint[] := '{}';
    available bigint;
BEGIN
    PERFORM 1 FROM accounts WHERE account_id = ANY (mains || insides) ORDER BY account_id FOR NO KEY UPDATE;

    FOR i IN 1 .. cardinality(mains) LOOP
        SELECT a.balance - coalesce(sum(g.amount), 0) INTO available
        FROM accounts a
        LEFT JOIN unnest(granted, mains[: i - 1]) AS g (amount, main) ON g.main = a.account_id
        WHERE a.account_id = mains[i]
        GROUP BY a.balance;
        granted := granted || CASE
            WHEN available < amounts[i] THEN 0
            ELSE least(available, greatest(amounts[i], at_mosts[i]))
        END;
    END LOOP;

    -- One statement: transfers, draws, entries; the trigger on entries then moves the balances.
    WITH wanted AS (
        SELECT w.*, number_first - 1 + row_number() OVER (ORDER BY w.place) AS number
        FROM unnest(participants, assets, mains, insides, granted) WITH ORDINALITY
            AS w (participant_id, asset, main_id, inside_id, amount, place)
        WHERE w.amount > 0
    ),
    moved AS (
        INSERT INTO transfers (kind, reference, time_us)
        SELECT 'draw', format('draw:%s:%s', market, number), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
        FROM wanted
        ORDER BY number
        RETURNING transfer_id, reference
    ),
    drawn AS (
        INSERT INTO draws (market_id, number, participant_id, asset, amount, transfer_id)
        SELECT market, number, participant_id, asset, amount, transfer_id
        FROM wanted
        JOIN moved ON reference = format('draw:%s:%s', market, number)
        RETURNING number, transfer_id
    )
    INSERT INTO entries (transfer_id, account_id, participant_id, amount)
    SELECT transfer_id, side.account_id, participant_id, side.amount
    FROM wanted
    JOIN drawn USING (number)
    CROSS JOIN LATERAL (VALUES (main_id, -wanted.amount), (inside_id, wanted.amount)) AS side (account_id, amount)
    ORDER BY number;

    RETURN granted;
END
$$;
