ALTER TABLE key_budget DROP COLUMN told_period;
ALTER TABLE account DROP COLUMN exhausted_at;
DROP TABLE webhook_delivery;
DROP TABLE webhook;
