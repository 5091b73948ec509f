ALTER TABLE positions DROP COLUMN charges_micro;
DROP TABLE maker_rewards;
DROP TABLE maker_presence;
DROP TABLE market_makers;
DROP TABLE recurring_orders;
