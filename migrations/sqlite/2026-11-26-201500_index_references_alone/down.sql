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
  UNIQUE (kind, external_ref),
  CHECK ((kind = 'charge') = (hold_id IS NOT NULL)),
  CHECK (kind <> 'charge' OR delta <= 0),
  CHECK (kind <> 'topup' OR (delta > 0 AND external_ref IS NOT NULL))
) WITHOUT ROWID;
INSERT INTO ledger_entry_new (account_id, seq, kind, hold_id, external_ref, delta, balance_after, actor, note, created_at, hash)
  SELECT account_id, seq, kind, hold_id, external_ref, delta, balance_after, actor, note, created_at, hash
  FROM ledger_entry ORDER BY account_id, seq;
DROP TABLE ledger_entry;
ALTER TABLE ledger_entry_new RENAME TO ledger_entry;
CREATE TRIGGER ledger_entry_is_final BEFORE UPDATE ON ledger_entry
BEGIN SELECT RAISE(ABORT, 'ledger_entry is append-only'); END;
CREATE TRIGGER ledger_entry_stays BEFORE DELETE ON ledger_entry
BEGIN SELECT RAISE(ABORT, 'ledger_entry is append-only'); END;
