-- What tenants brought to call providers with. The keys are sealed: the database alone opens none of them.
CREATE TABLE account_provider (
  account_id TEXT NOT NULL REFERENCES account,
  name TEXT NOT NULL,
  base_url TEXT,                                   -- null: one of the operator's providers
  sealed BLOB NOT NULL,                            -- the key
  last_four TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (account_id, name)
);
