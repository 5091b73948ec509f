-- Why: stop orders: their stop price, and whether they still wait for a trade at it. 0: no stop order.
-- Locks: ACCESS EXCLUSIVE on orders for a moment: constant defaults rewrite nothing.

ALTER TABLE orders
    ADD COLUMN stop_price_micro bigint NOT NULL DEFAULT 0 CHECK (stop_price_micro >= 0),
    ADD COLUMN is_waiting boolean NOT NULL DEFAULT false;
