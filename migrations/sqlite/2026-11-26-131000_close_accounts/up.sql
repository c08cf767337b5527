ALTER TABLE account ADD COLUMN closed_at BIGINT;        -- for good; null while it is open
