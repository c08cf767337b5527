ALTER TABLE request_key ADD COLUMN answer TEXT;    -- the whole answer as JSON, once there is one
CREATE INDEX request_key_of_request ON request_key (request_id);
CREATE INDEX request_key_age ON request_key (created_at);
