ALTER TABLE orders
    DROP COLUMN stop_price_micro,
    DROP COLUMN is_waiting;
