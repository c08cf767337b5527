DROP TRIGGER hold_is_final;
DROP TRIGGER hold_stays;
CREATE TABLE usage_record_new (
  hold_id TEXT PRIMARY KEY NOT NULL REFERENCES hold,
  account_id TEXT NOT NULL,
  key_id TEXT NOT NULL,
  agent_id TEXT NOT NULL,
  session_id TEXT NOT NULL,
  completion_id TEXT NOT NULL,
  model TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  price_id TEXT NOT NULL REFERENCES price,
  prompt BIGINT NOT NULL,
  cached BIGINT NOT NULL,
  output BIGINT NOT NULL,
  source TEXT NOT NULL CHECK (source = 'upstream' OR source = 'local' OR source = 'recovered'),
  cost BIGINT NOT NULL,
  charged BIGINT NOT NULL,
  written_off BIGINT NOT NULL,
  CHECK (prompt >= 0 AND cached >= 0 AND output >= 0),
  CHECK (cached <= prompt),
  CHECK (cost = charged + written_off),
  CHECK (charged >= 0 AND written_off >= 0)
);
INSERT INTO usage_record_new SELECT * FROM usage_record ORDER BY created_at, hold_id;
DROP VIEW usage_record;
ALTER TABLE usage_record_new RENAME TO usage_record;
DROP INDEX usage_of_account;
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql, 'served_price_id TEXT REFERENCES price', 'served_price_id TEXT'),
  'CHECK ((state = ''open'') = (closed_at IS NULL)),
  CHECK ((state = ''settled'') = (cost IS NOT NULL)),
  CHECK ((state = ''settled'') = (prompt + cached + output + charged + written_off IS NOT NULL AND source IS NOT NULL))',
  'CHECK ((state = ''open'') = (closed_at IS NULL))')
  WHERE type = 'table' AND name = 'hold';
PRAGMA writable_schema = RESET;
ALTER TABLE hold DROP COLUMN written_off;
ALTER TABLE hold DROP COLUMN charged;
ALTER TABLE hold DROP COLUMN cost;
ALTER TABLE hold DROP COLUMN source;
ALTER TABLE hold DROP COLUMN output;
ALTER TABLE hold DROP COLUMN cached;
ALTER TABLE hold DROP COLUMN prompt;
CREATE INDEX usage_of_account ON usage_record (account_id, created_at);
CREATE TRIGGER usage_record_is_final BEFORE UPDATE ON usage_record
BEGIN SELECT RAISE(ABORT, 'usage_record is append-only'); END;
CREATE TRIGGER usage_record_stays BEFORE DELETE ON usage_record
BEGIN SELECT RAISE(ABORT, 'usage_record is append-only'); END;
