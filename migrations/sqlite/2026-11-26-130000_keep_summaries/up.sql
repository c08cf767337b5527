CREATE TABLE session_summary (
  session_id BIGINT PRIMARY KEY NOT NULL REFERENCES session ON DELETE CASCADE,
  upto BIGINT NOT NULL,                            -- seq of the last message that it stands for
  body TEXT NOT NULL,
  hold_id TEXT NOT NULL,                           -- the provider call that made it
  created_at BIGINT NOT NULL
) WITHOUT ROWID;
