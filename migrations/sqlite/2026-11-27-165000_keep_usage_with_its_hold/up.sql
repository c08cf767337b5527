-- What a call came to stands in the row of its hold, and no longer in one of its own that repeated the hold's account, key,
-- agent, session and completion: a row and an index less to write for each turn. Whoever reads the books finds it as
-- before: usage_record is a view of the holds that were charged, which cannot be changed any more.
ALTER TABLE hold ADD COLUMN prompt BIGINT CHECK (prompt >= 0);
ALTER TABLE hold ADD COLUMN cached BIGINT CHECK (cached >= 0 AND cached <= prompt);
ALTER TABLE hold ADD COLUMN output BIGINT CHECK (output >= 0);
ALTER TABLE hold ADD COLUMN source TEXT CHECK (source = 'upstream' OR source = 'local' OR source = 'recovered');
ALTER TABLE hold ADD COLUMN cost BIGINT;
ALTER TABLE hold ADD COLUMN charged BIGINT CHECK (charged >= 0);
ALTER TABLE hold ADD COLUMN written_off BIGINT CHECK (written_off >= 0 AND cost = charged + written_off);
UPDATE hold SET prompt = u.prompt, cached = u.cached, output = u.output, source = u.source, cost = u.cost,
  charged = u.charged, written_off = u.written_off, closed_at = u.created_at,
  served_model = CASE WHEN coalesce(hold.served_model, hold.model) = u.model THEN hold.served_model ELSE u.model END,
  served_price_id = CASE WHEN coalesce(hold.served_price_id, hold.price_id) = u.price_id THEN hold.served_price_id
                    ELSE u.price_id END
  FROM usage_record u WHERE u.hold_id = hold.id;
DROP TABLE usage_record;
-- As SQLite's own documentation of ALTER TABLE tells.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql, 'served_price_id TEXT', 'served_price_id TEXT REFERENCES price'),
  'CHECK ((state = ''open'') = (closed_at IS NULL))',
  'CHECK ((state = ''open'') = (closed_at IS NULL)),
  CHECK ((state = ''settled'') = (cost IS NOT NULL)),
  CHECK ((state = ''settled'') = (prompt + cached + output + charged + written_off IS NOT NULL AND source IS NOT NULL))')
  WHERE type = 'table' AND name = 'hold';
PRAGMA writable_schema = RESET;
CREATE INDEX usage_of_account ON hold (account_id, closed_at) WHERE cost IS NOT NULL;
CREATE VIEW usage_record AS SELECT id AS hold_id, account_id, key_id, agent_id, session_id, completion_id,
  coalesce(served_model, model) AS model, closed_at AS created_at, coalesce(served_price_id, price_id) AS price_id,
  prompt, cached, output, source, cost, charged, written_off FROM hold WHERE cost IS NOT NULL;
CREATE TRIGGER hold_is_final BEFORE UPDATE ON hold WHEN OLD.state <> 'open'
BEGIN SELECT RAISE(ABORT, 'a hold that is closed is append-only'); END;
CREATE TRIGGER hold_stays BEFORE DELETE ON hold
BEGIN SELECT RAISE(ABORT, 'hold is append-only'); END;
