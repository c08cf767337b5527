CREATE TABLE account (
  account_id TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('active', 'suspended')),
  limits TEXT NOT NULL DEFAULT '{}',
  last_seq BIGINT NOT NULL DEFAULT 0,
  available BIGINT NOT NULL CHECK (available >= 0),
  held BIGINT NOT NULL CHECK (held >= 0),          -- balance = available + held
  agent_count BIGINT NOT NULL DEFAULT 0 CHECK (agent_count >= 0),
  session_count BIGINT NOT NULL DEFAULT 0 CHECK (session_count >= 0),
  created_at BIGINT NOT NULL
);

CREATE TABLE agent (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,   -- order of creation
  agent_id TEXT NOT NULL UNIQUE,
  account_id TEXT NOT NULL REFERENCES account,
  definition TEXT NOT NULL,                        -- JSON, as the API shows it
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);
CREATE INDEX agent_of_account ON agent (account_id, id);

CREATE TABLE api_key (
  key_id TEXT PRIMARY KEY NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('agent', 'account', 'operator')),
  account_id TEXT REFERENCES account,
  agent_id TEXT,
  name TEXT NOT NULL,
  digest BLOB NOT NULL UNIQUE,                     -- SHA-256 of the secret
  last_four TEXT NOT NULL,
  scopes TEXT NOT NULL,                            -- JSON array
  limits TEXT NOT NULL DEFAULT '{}',
  budget TEXT,                                     -- JSON {"amount","period"}
  public BOOLEAN NOT NULL DEFAULT FALSE,
  created_at BIGINT NOT NULL,
  expires_at BIGINT,
  revoked_at BIGINT,
  CHECK ((kind = 'agent') = (agent_id IS NOT NULL)),
  CHECK ((kind = 'operator') = (account_id IS NULL))
);
CREATE INDEX api_key_of_account ON api_key (account_id, kind, created_at);
CREATE INDEX api_key_of_agent ON api_key (agent_id, created_at) WHERE agent_id IS NOT NULL;
