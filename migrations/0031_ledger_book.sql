-- Why: the follower books what a batch of the journal moved. Transfers, locks, reservations and entries were five round
-- trips, and from the second on whoever drew funds waited for the locks; this is one.
-- Locks: none, a new function. Old code does not call it.
-- Before the entries what is reserved may only fall, after them only rise: so it never exceeds the balance in between.
CREATE FUNCTION ledger_book(
    kinds text[], refs text[], times bigint[],
    entry_refs text[], account_ids bigint[], participants bigint[], amounts bigint[],
    reserved_ids bigint[], reserved_amounts bigint[]
) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan -- a plan for ten entries does not do for ten thousand
AS $$
BEGIN
    PERFORM 1 FROM accounts WHERE account_id = ANY (account_ids || reserved_ids) ORDER BY account_id FOR NO KEY UPDATE;

    UPDATE accounts a
    SET reserved = r.amount
    FROM unnest(reserved_ids, reserved_amounts) AS r (account_id, amount)
    WHERE a.account_id = r.account_id AND a.reserved > r.amount;

    -- One statement: a transfer that is there already, such as a draw, has its entries. The trigger moves the balances.
    WITH made AS (
        INSERT INTO transfers (kind, reference, time_us)
        SELECT * FROM unnest(kinds, refs, times)
        ON CONFLICT (reference) DO NOTHING
        RETURNING transfer_id, reference
    )
    INSERT INTO entries (transfer_id, account_id, participant_id, amount)
    SELECT made.transfer_id, e.account_id, e.participant_id, e.amount
    FROM unnest(entry_refs, account_ids, participants, amounts) WITH ORDINALITY
        AS e (reference, account_id, participant_id, amount, number)
    JOIN made USING (reference)
    ORDER BY e.number;

    UPDATE accounts a
    SET reserved = r.amount
    FROM unnest(reserved_ids, reserved_amounts) AS r (account_id, amount)
    WHERE a.account_id = r.account_id AND a.reserved < r.amount;
END
$$;
