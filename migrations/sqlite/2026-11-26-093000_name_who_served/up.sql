-- Who serves a call of several candidates, once the first of them answers: a crash charges at that price, and
-- `ledger explain` tells it. Null: the call's only candidate, or nobody yet.
ALTER TABLE hold ADD COLUMN served_by TEXT;        -- provider/model
ALTER TABLE hold ADD COLUMN served_model TEXT;
ALTER TABLE hold ADD COLUMN served_price_id TEXT;
