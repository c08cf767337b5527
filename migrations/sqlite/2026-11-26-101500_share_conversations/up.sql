-- A conversation is a path of branches: what two sessions have in common is stored once.
CREATE TABLE branch (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  parent_id BIGINT REFERENCES branch,              -- the branch it goes on from
  base BIGINT NOT NULL DEFAULT 0,                  -- how many messages before its own are the parent's
  CHECK ((parent_id IS NULL) = (base = 0))
);
CREATE INDEX branch_of_parent ON branch (parent_id, base) WHERE parent_id IS NOT NULL;

-- Until now each session had its messages to itself: a branch each, of the same number.
INSERT INTO branch (id) SELECT id FROM session WHERE head > 0;

CREATE TABLE turn_of_branch (
  branch_id BIGINT NOT NULL REFERENCES branch ON DELETE CASCADE,
  seq BIGINT NOT NULL,                             -- seq of the turn's last message
  completion_id TEXT NOT NULL UNIQUE,
  hold_id TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('complete', 'incomplete')),
  metadata TEXT,                                   -- the client's own notes, a JSON object
  created_at BIGINT NOT NULL,
  PRIMARY KEY (branch_id, seq)
) WITHOUT ROWID;
INSERT INTO turn_of_branch (branch_id, seq, completion_id, hold_id, status, metadata, created_at)
  SELECT session_id, seq, completion_id, hold_id, status, metadata, created_at FROM turn ORDER BY session_id, seq;
DROP TABLE turn;
ALTER TABLE turn_of_branch RENAME TO turn;

CREATE TABLE message_of_branch (
  branch_id BIGINT NOT NULL REFERENCES branch ON DELETE CASCADE,
  seq BIGINT NOT NULL,                             -- its place in the conversation, from 1
  turn_seq BIGINT NOT NULL,
  body TEXT NOT NULL,                              -- JSON, as it was sent or received
  created_at BIGINT NOT NULL,
  chain BLOB,                                      -- digest of the conversation up to here, where it may be sent again
  PRIMARY KEY (branch_id, seq)
) WITHOUT ROWID;
INSERT INTO message_of_branch (branch_id, seq, turn_seq, body, created_at)
  SELECT session_id, seq, turn_seq, body, created_at FROM message ORDER BY session_id, seq;
DROP TABLE message;
ALTER TABLE message_of_branch RENAME TO message;
CREATE INDEX message_chain ON message (chain) WHERE chain IS NOT NULL;

ALTER TABLE session ADD COLUMN branch_id BIGINT REFERENCES branch;  -- the last branch of its path; null where nothing was said
ALTER TABLE session ADD COLUMN given BIGINT NOT NULL DEFAULT 0;     -- messages that came along with its first turn, answers among them
ALTER TABLE session ADD COLUMN given_at BIGINT NOT NULL DEFAULT 0;  -- when they came
ALTER TABLE session ADD COLUMN title TEXT;
ALTER TABLE session ADD COLUMN metadata TEXT;                       -- the tenant's own notes, a JSON object of strings
UPDATE session SET branch_id = id WHERE head > 0;
CREATE INDEX session_of_branch ON session (branch_id) WHERE branch_id IS NOT NULL;
CREATE INDEX session_by_status ON session (account_id, status);
CREATE INDEX session_of_agent_by_status ON session (account_id, agent_id, status);

CREATE TABLE session_metadata (                    -- the same notes, to find sessions by
  session_id BIGINT NOT NULL REFERENCES session ON DELETE CASCADE,
  account_id TEXT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (session_id, name)
) WITHOUT ROWID;
CREATE INDEX session_metadata_value ON session_metadata (account_id, name, value, session_id);

ALTER TABLE account ADD COLUMN retention_days BIGINT;  -- sessions idle for longer are deleted; null for never
