-- Each session gets its messages to itself again.
CREATE TABLE path AS
  WITH RECURSIVE path (session_id, branch_id, upto) AS (
    SELECT id, branch_id, head FROM session WHERE branch_id IS NOT NULL
    UNION ALL
    SELECT p.session_id, b.parent_id, b.base FROM path p JOIN branch b ON b.id = p.branch_id WHERE b.parent_id IS NOT NULL)
  SELECT p.session_id, p.branch_id, b.base AS after, p.upto FROM path p JOIN branch b ON b.id = p.branch_id;

CREATE TABLE message_of_session (
  session_id BIGINT NOT NULL REFERENCES session ON DELETE CASCADE,
  seq BIGINT NOT NULL,
  turn_seq BIGINT NOT NULL,
  body TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (session_id, seq)
) WITHOUT ROWID;
INSERT INTO message_of_session SELECT p.session_id, m.seq, m.turn_seq, m.body, m.created_at FROM path p
  JOIN message m ON m.branch_id = p.branch_id AND m.seq > p.after AND m.seq <= p.upto;

-- An answer that several sessions have belongs to the first of them.
CREATE TABLE turn_of_session (
  session_id BIGINT NOT NULL REFERENCES session ON DELETE CASCADE,
  seq BIGINT NOT NULL,
  completion_id TEXT NOT NULL UNIQUE,
  hold_id TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('complete', 'incomplete')),
  metadata TEXT,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (session_id, seq)
) WITHOUT ROWID;
INSERT OR IGNORE INTO turn_of_session
  SELECT p.session_id, t.seq, t.completion_id, t.hold_id, t.status, t.metadata, t.created_at FROM path p
  JOIN turn t ON t.branch_id = p.branch_id AND t.seq > p.after AND t.seq <= p.upto ORDER BY p.session_id;

DROP INDEX session_of_branch;
DROP INDEX session_by_status;
DROP INDEX session_of_agent_by_status;
DROP INDEX message_chain;
DROP TABLE message;
DROP TABLE turn;
ALTER TABLE message_of_session RENAME TO message;
ALTER TABLE turn_of_session RENAME TO turn;
DROP TABLE session_metadata;
DROP TABLE path;
ALTER TABLE session DROP COLUMN branch_id;
ALTER TABLE session DROP COLUMN given;
ALTER TABLE session DROP COLUMN given_at;
ALTER TABLE session DROP COLUMN title;
ALTER TABLE session DROP COLUMN metadata;
DROP TABLE branch;
ALTER TABLE account DROP COLUMN retention_days;
