CREATE TABLE node_epoch (
  epoch BIGINT PRIMARY KEY NOT NULL,
  node TEXT NOT NULL,
  seen_at BIGINT NOT NULL,
  ended_at BIGINT
);

CREATE TABLE price (
  id TEXT PRIMARY KEY NOT NULL,
  model TEXT NOT NULL,
  effective_from BIGINT NOT NULL,
  input BIGINT NOT NULL CHECK (input >= 0),        -- nano-USD per million tokens
  cached_input BIGINT NOT NULL CHECK (cached_input >= 0),
  output BIGINT NOT NULL CHECK (output >= 0),
  per_request BIGINT NOT NULL CHECK (per_request >= 0), -- nano-USD
  UNIQUE (model, effective_from)
);

CREATE TABLE hold (
  id TEXT PRIMARY KEY NOT NULL,
  account_id TEXT NOT NULL REFERENCES account,
  key_id TEXT NOT NULL,
  agent_id TEXT NOT NULL,
  session_id TEXT NOT NULL,
  completion_id TEXT NOT NULL,
  model TEXT NOT NULL,
  request_id TEXT NOT NULL,
  step INTEGER NOT NULL,
  amount BIGINT NOT NULL CHECK (amount >= 0),
  price_id TEXT NOT NULL REFERENCES price,
  state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'released')),
  reason TEXT,
  owner_epoch BIGINT NOT NULL,
  mark_prompt BIGINT NOT NULL DEFAULT 0,           -- progress, a floor of what was received
  mark_output BIGINT NOT NULL DEFAULT 0,
  pending TEXT,                                    -- what the client said, once the call is long: JSON array
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  closed_at BIGINT,
  UNIQUE (request_id, step),
  CHECK ((state = 'open') = (closed_at IS NULL))
);
CREATE INDEX hold_open ON hold (owner_epoch, account_id) WHERE state = 'open';

CREATE TABLE ledger_entry (
  account_id TEXT NOT NULL REFERENCES account,
  seq BIGINT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('topup', 'charge', 'refund', 'adjust', 'grant', 'expire')),
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

CREATE TABLE usage_record (
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
  source TEXT NOT NULL CHECK (source IN ('upstream', 'local', 'recovered')),
  cost BIGINT NOT NULL,
  charged BIGINT NOT NULL,
  written_off BIGINT NOT NULL,
  CHECK (prompt >= 0 AND cached >= 0 AND output >= 0),
  CHECK (cached <= prompt),
  CHECK (cost = charged + written_off),
  CHECK (charged >= 0 AND written_off >= 0)
);
CREATE INDEX usage_of_account ON usage_record (account_id, created_at);

CREATE TABLE key_budget (
  key_id TEXT PRIMARY KEY NOT NULL,
  period BIGINT NOT NULL,                          -- number of the running day or month; 0 for the whole life
  cap BIGINT NOT NULL,
  spent BIGINT NOT NULL CHECK (spent >= 0),
  held BIGINT NOT NULL CHECK (held >= 0)
);

CREATE TABLE request_key (
  account_id TEXT NOT NULL,
  key_id TEXT NOT NULL,
  idem_key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  request_id TEXT NOT NULL,
  state TEXT NOT NULL,
  result_ref TEXT,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (account_id, key_id, idem_key)
) WITHOUT ROWID;

CREATE TRIGGER ledger_entry_is_final BEFORE UPDATE ON ledger_entry
BEGIN SELECT RAISE(ABORT, 'ledger_entry is append-only'); END;
CREATE TRIGGER ledger_entry_stays BEFORE DELETE ON ledger_entry
BEGIN SELECT RAISE(ABORT, 'ledger_entry is append-only'); END;
CREATE TRIGGER usage_record_is_final BEFORE UPDATE ON usage_record
BEGIN SELECT RAISE(ABORT, 'usage_record is append-only'); END;
CREATE TRIGGER usage_record_stays BEFORE DELETE ON usage_record
BEGIN SELECT RAISE(ABORT, 'usage_record is append-only'); END;
CREATE TRIGGER price_is_final BEFORE UPDATE ON price
BEGIN SELECT RAISE(ABORT, 'price is append-only'); END;
CREATE TRIGGER price_stays BEFORE DELETE ON price
BEGIN SELECT RAISE(ABORT, 'price is append-only'); END;
