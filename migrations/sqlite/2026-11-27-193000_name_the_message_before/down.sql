CREATE TABLE branch (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  parent_id BIGINT REFERENCES branch,              -- the branch it goes on from
  base BIGINT NOT NULL DEFAULT 0,                  -- how many messages before its own are the parent's
  CHECK ((parent_id IS NULL) = (base = 0))
);
-- A branch begins with each message but the oldest of those that follow the same one, and is called by its row. What no way
-- leads to from a first message, which only damage can do, is left out.
CREATE INDEX message_previous ON message (previous_id, id);
CREATE TEMP TABLE branch_of AS WITH RECURSIVE way (id, branch_id) AS (
  SELECT id, id FROM message WHERE previous_id IS NULL
  UNION ALL SELECT m.id, iif(m.id = (SELECT MIN(f.id) FROM message f WHERE f.previous_id = w.id), w.branch_id, m.id)
  FROM way w CROSS JOIN message m ON m.previous_id = w.id
) SELECT id, branch_id FROM way;
CREATE UNIQUE INDEX temp.branch_of_message ON branch_of (id);
INSERT INTO branch (id, parent_id, base)
  SELECT m.id, p.branch_id, m.seq - 1 FROM message m JOIN temp.branch_of o ON o.id = m.id
  LEFT JOIN temp.branch_of p ON p.id = m.previous_id WHERE o.branch_id = m.id ORDER BY m.id;
CREATE INDEX branch_of_parent ON branch (parent_id, base) WHERE parent_id IS NOT NULL;

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
  SELECT o.branch_id, m.seq, m.turn_seq, m.body, m.created_at, m.chain, m.completion_id, m.hold_id, m.status, m.metadata
  FROM message m JOIN temp.branch_of o ON o.id = m.id ORDER BY m.id;
UPDATE session SET message_id = (SELECT o.branch_id FROM temp.branch_of o WHERE o.id = session.message_id)
  WHERE message_id IS NOT NULL;
DROP TABLE temp.branch_of;
DROP TABLE message;
ALTER TABLE message_new RENAME TO message;
CREATE INDEX message_chain ON message (chain) WHERE chain IS NOT NULL;
ALTER TABLE session DROP COLUMN anchor_id;
-- As SQLite's own documentation of ALTER TABLE tells.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'message_id BIGINT', 'branch_id BIGINT REFERENCES branch')
  WHERE type = 'table' AND name = 'session';
PRAGMA writable_schema = RESET;
CREATE INDEX session_of_branch ON session (branch_id) WHERE branch_id IS NOT NULL;
