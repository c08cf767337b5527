-- Who did what to which object, written in the transaction that does it. Rows are added and never changed.
CREATE TABLE audit_record (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  account_id TEXT,                                 -- whose object it is; null: the server's own
  actor_kind TEXT NOT NULL CHECK (actor_kind IN ('account', 'operator', 'server')),
  actor_key TEXT,                                  -- null: the server by itself
  action TEXT NOT NULL,
  object_kind TEXT NOT NULL,
  object_id TEXT NOT NULL,
  state_before TEXT,                               -- JSON without secrets; null: it was not there
  state_after TEXT,                                -- likewise; null: it is gone
  request_id TEXT,
  address TEXT,                                    -- where the request came from
  created_at BIGINT NOT NULL,
  CHECK (state_before IS NOT NULL OR state_after IS NOT NULL)
);
CREATE INDEX audit_record_of_account ON audit_record (account_id, id);

CREATE TRIGGER audit_record_is_final BEFORE UPDATE ON audit_record
BEGIN SELECT RAISE(ABORT, 'audit_record is append-only'); END;
CREATE TRIGGER audit_record_stays BEFORE DELETE ON audit_record
BEGIN SELECT RAISE(ABORT, 'audit_record is append-only'); END;
