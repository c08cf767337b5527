CREATE TABLE turn (
  branch_id BIGINT NOT NULL REFERENCES branch ON DELETE CASCADE,
  seq BIGINT NOT NULL,                             -- seq of the turn's last message
  completion_id TEXT NOT NULL UNIQUE,
  hold_id TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('complete', 'incomplete')),
  metadata TEXT,                                   -- the client's own notes, a JSON object
  created_at BIGINT NOT NULL,
  PRIMARY KEY (branch_id, seq)
) WITHOUT ROWID;
INSERT INTO turn (branch_id, seq, completion_id, hold_id, status, metadata, created_at)
  SELECT branch_id, seq, completion_id, hold_id, status, metadata, created_at FROM message
  WHERE completion_id IS NOT NULL ORDER BY branch_id, seq;

CREATE TABLE message_new (
  branch_id BIGINT NOT NULL REFERENCES branch ON DELETE CASCADE,
  seq BIGINT NOT NULL,                             -- its place in the conversation, from 1
  turn_seq BIGINT NOT NULL,
  body TEXT NOT NULL,                              -- JSON, as it was sent or received
  created_at BIGINT NOT NULL,
  chain BLOB,                                      -- digest of the conversation up to here, where it may be sent again
  PRIMARY KEY (branch_id, seq)
) WITHOUT ROWID;
INSERT INTO message_new (branch_id, seq, turn_seq, body, created_at, chain)
  SELECT branch_id, seq, turn_seq, body, created_at, chain FROM message ORDER BY branch_id, seq;
DROP TABLE message;
ALTER TABLE message_new RENAME TO message;
CREATE INDEX message_chain ON message (chain) WHERE chain IS NOT NULL;

CREATE TABLE ledger_entry_new (
  account_id TEXT NOT NULL REFERENCES account,
  seq BIGINT NOT NULL,
  kind TEXT NOT NULL CHECK (kind = 'charge' OR kind = 'topup' OR kind = 'refund' OR kind = 'adjust' OR kind = 'grant' OR kind = 'expire'),
  hold_id TEXT UNIQUE REFERENCES hold,
  external_ref TEXT,
  delta BIGINT NOT NULL,
  balance_after BIGINT NOT NULL CHECK (balance_after >= 0),
  actor TEXT NOT NULL,
  note TEXT,
  created_at BIGINT NOT NULL,
  hash TEXT NOT NULL,                              -- blake3(previous hash || row)
  PRIMARY KEY (account_id, seq),
  CHECK ((kind = 'charge') = (hold_id IS NOT NULL)),
  CHECK (kind <> 'charge' OR delta <= 0),
  CHECK (kind <> 'topup' OR (delta > 0 AND external_ref IS NOT NULL))
) WITHOUT ROWID;
INSERT INTO ledger_entry_new (account_id, seq, kind, hold_id, external_ref, delta, balance_after, actor, note, created_at, hash)
  SELECT account_id, seq, kind, hold_id, external_ref, delta, balance_after, actor, note, created_at, hash
  FROM ledger_entry ORDER BY account_id, seq;
DROP TABLE ledger_entry;
ALTER TABLE ledger_entry_new RENAME TO ledger_entry;
CREATE UNIQUE INDEX ledger_entry_reference ON ledger_entry (kind, external_ref) WHERE external_ref IS NOT NULL;
CREATE TRIGGER ledger_entry_is_final BEFORE UPDATE ON ledger_entry
BEGIN SELECT RAISE(ABORT, 'ledger_entry is append-only'); END;
CREATE TRIGGER ledger_entry_stays BEFORE DELETE ON ledger_entry
BEGIN SELECT RAISE(ABORT, 'ledger_entry is append-only'); END;
