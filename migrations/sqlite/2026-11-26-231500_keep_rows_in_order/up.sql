-- Messages and entries are kept in the order in which they came, and no longer beside those of their conversation or
-- account: what one batch writes lies in the same few pages. Only the narrow indexes of their places have a page for each
-- conversation and account. What is noted of an answer stands with its message, not in rows of its own. That an answer is
-- stored once its hold sees to, which is closed once; nobody looks for one by its id.
CREATE TABLE message_new (
  branch_id BIGINT NOT NULL REFERENCES branch ON DELETE CASCADE,
  seq BIGINT NOT NULL,                             -- its place in the conversation, from 1
  turn_seq BIGINT NOT NULL,                        -- seq of its turn's last message, which is the answer
  body TEXT NOT NULL,                              -- JSON, as it was sent or received
  created_at BIGINT NOT NULL,
  chain BLOB,                                      -- digest of the conversation up to here, where it may be sent again
  completion_id TEXT,                              -- of an answer, as are those that follow
  hold_id TEXT,
  status TEXT CHECK (status IS NULL OR status = 'complete' OR status = 'incomplete'),
  metadata TEXT,                                   -- the client's own notes on the turn, a JSON object
  PRIMARY KEY (branch_id, seq),
  CHECK ((completion_id IS NULL) = (hold_id IS NULL) AND (completion_id IS NULL) = (status IS NULL))
);
INSERT INTO message_new (branch_id, seq, turn_seq, body, created_at, chain, completion_id, hold_id, status, metadata)
  SELECT m.branch_id, m.seq, m.turn_seq, m.body, m.created_at, m.chain, t.completion_id, t.hold_id, t.status, t.metadata
  FROM message m LEFT JOIN turn t ON t.branch_id = m.branch_id AND t.seq = m.seq ORDER BY m.branch_id, m.seq;
DROP TABLE message;
DROP TABLE turn;
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
);
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
