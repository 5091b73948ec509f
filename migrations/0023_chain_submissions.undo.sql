DROP TABLE chain_parts;
DROP TABLE withdrawals;
DROP TRIGGER meters_on_chain ON meters;
DROP FUNCTION chain_register_meter();
DROP TRIGGER wallets_on_chain ON wallets;
DROP FUNCTION chain_register_user();
DROP TABLE chain_accounts;
DROP TRIGGER outbox_submitted ON outbox;
DROP FUNCTION chain_submit();
DROP FUNCTION chain_lane(text);
DROP TABLE chain_submissions;
DELETE FROM outbox
WHERE kind NOT IN ('energy_generated', 'energy_revoked', 'energy_retired', 'settle', 'oracle');
