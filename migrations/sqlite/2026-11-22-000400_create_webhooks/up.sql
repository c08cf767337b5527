CREATE TABLE webhook (
  id TEXT PRIMARY KEY NOT NULL,
  account_id TEXT NOT NULL REFERENCES account,
  url TEXT NOT NULL,
  events TEXT NOT NULL,                            -- kinds that are wanted, as a JSON list
  balance_low TEXT NOT NULL,                       -- thresholds in nano-USD, as a JSON list
  created_at BIGINT NOT NULL
);
CREATE INDEX webhook_of_account ON webhook (account_id);

CREATE TABLE webhook_delivery (                    -- what is still to be told; a row goes when it was
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  webhook_id TEXT NOT NULL REFERENCES webhook ON DELETE CASCADE,
  event_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  body TEXT NOT NULL,                              -- JSON, sent and signed as it stands
  attempts INTEGER NOT NULL,
  next_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL
);
CREATE INDEX webhook_delivery_due ON webhook_delivery (next_at);
CREATE INDEX webhook_delivery_of_webhook ON webhook_delivery (webhook_id);

ALTER TABLE account ADD COLUMN exhausted_at BIGINT;    -- when the lack of money was told; null again with new money
ALTER TABLE key_budget ADD COLUMN told_period BIGINT;  -- the period whose end of money was told
