CREATE TABLE session (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,   -- order of creation
  account_id TEXT NOT NULL REFERENCES account,
  agent_id TEXT NOT NULL,
  name TEXT NOT NULL,
  named_by TEXT NOT NULL CHECK (named_by IN ('server', 'client')),
  status TEXT NOT NULL CHECK (status IN ('active', 'archived')),
  head BIGINT NOT NULL DEFAULT 0,                  -- seq of the last message, so the number of messages
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  UNIQUE (account_id, agent_id, name)
);
CREATE INDEX session_by_name ON session (account_id, name);
CREATE INDEX session_newest ON session (account_id, id);
CREATE INDEX session_newest_of_agent ON session (account_id, agent_id, id);

CREATE TABLE turn (
  session_id BIGINT NOT NULL REFERENCES session ON DELETE CASCADE,
  seq BIGINT NOT NULL,                             -- seq of the turn's last message
  completion_id TEXT NOT NULL UNIQUE,
  hold_id TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('complete', 'incomplete')),
  metadata TEXT,                                   -- the client's own notes, a JSON object
  created_at BIGINT NOT NULL,
  PRIMARY KEY (session_id, seq)
) WITHOUT ROWID;

CREATE TABLE message (
  session_id BIGINT NOT NULL REFERENCES session ON DELETE CASCADE,
  seq BIGINT NOT NULL,
  turn_seq BIGINT NOT NULL,
  body TEXT NOT NULL,                              -- JSON, as it was sent or received
  created_at BIGINT NOT NULL,
  PRIMARY KEY (session_id, seq)
) WITHOUT ROWID;
