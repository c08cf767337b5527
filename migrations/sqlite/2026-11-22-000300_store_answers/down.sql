DROP INDEX request_key_age;
DROP INDEX request_key_of_request;
ALTER TABLE request_key DROP COLUMN answer;
