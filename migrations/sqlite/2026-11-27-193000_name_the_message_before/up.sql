-- Each message names the row of the one before it, and a session that of its last, in the place of branches and of an index
-- by branch and number, which each turn wrote to at a place of its own.
CREATE TABLE message_new (
  id INTEGER PRIMARY KEY NOT NULL,
  previous_id BIGINT,                              -- the message before it; null for the first of a conversation
  anchor_id BIGINT,                                -- the last one before it whose seq is a multiple of 64
  seq BIGINT NOT NULL,                             -- its place in the conversation, from 1
  turn_seq BIGINT NOT NULL,                        -- seq of its turn's last message, which is the answer
  reference_count BIGINT NOT NULL DEFAULT 1,       -- sessions that end with it and messages that name it as the one before
  body TEXT NOT NULL,                              -- JSON, as it was sent or received
  created_at BIGINT NOT NULL,
  chain BLOB,                                      -- digest of the conversation up to here, where it may be sent again
  completion_id TEXT,                              -- of an answer, as are those that follow
  hold_id TEXT,
  status TEXT CHECK (status IS NULL OR status = 'complete' OR status = 'incomplete'),
  metadata TEXT,                                   -- the client's own notes on the turn, a JSON object
  CHECK ((completion_id IS NULL) = (hold_id IS NULL) AND (completion_id IS NULL) = (status IS NULL))
);
-- The first message of a branch follows that of the parent where the branch begins. What is damaged stays so: `verify` tells.
INSERT INTO message_new (id, previous_id, seq, turn_seq, body, created_at, chain, completion_id, hold_id, status, metadata)
  SELECT m.rowid, coalesce(
    (SELECT p.rowid FROM message p WHERE p.branch_id = m.branch_id AND p.seq = m.seq - 1),
    (SELECT p.rowid FROM branch b JOIN message p ON p.branch_id = b.parent_id AND p.seq = b.base WHERE b.id = m.branch_id)),
  m.seq, m.turn_seq, m.body, m.created_at, m.chain, m.completion_id, m.hold_id, m.status, m.metadata
  FROM message m ORDER BY m.rowid;

DROP INDEX session_of_branch;
-- As SQLite's own documentation of ALTER TABLE tells.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'branch_id BIGINT REFERENCES branch', 'message_id BIGINT')
  WHERE type = 'table' AND name = 'session';
PRAGMA writable_schema = RESET;
ALTER TABLE session ADD COLUMN anchor_id BIGINT;   -- anchor_id of its last message, which message_id names
UPDATE session SET message_id = (SELECT m.rowid FROM message m WHERE m.branch_id = session.message_id AND m.seq = session.head)
  WHERE message_id IS NOT NULL;

DROP TABLE message;
DROP TABLE branch;
ALTER TABLE message_new RENAME TO message;
CREATE INDEX message_chain ON message (chain) WHERE chain IS NOT NULL;

CREATE INDEX message_previous ON message (previous_id);
CREATE TEMP TABLE anchor AS WITH RECURSIVE way (id, seq, anchor_id) AS (
  SELECT id, seq, NULL FROM message WHERE previous_id IS NULL
  UNION ALL SELECT m.id, m.seq, iif(w.seq % 64 = 0, w.id, w.anchor_id) FROM way w CROSS JOIN message m ON m.previous_id = w.id
) SELECT id, anchor_id FROM way WHERE anchor_id IS NOT NULL;
UPDATE message SET anchor_id = a.anchor_id FROM temp.anchor a WHERE a.id = message.id;
DROP TABLE temp.anchor;
UPDATE session SET anchor_id = m.anchor_id FROM message m WHERE m.id = session.message_id;
UPDATE message SET reference_count = r.n FROM
  (SELECT id, COUNT(*) AS n FROM (SELECT previous_id AS id FROM message UNION ALL SELECT message_id FROM session) GROUP BY id) r
  WHERE r.id = message.id AND r.n <> 1;
DROP INDEX message_previous;
