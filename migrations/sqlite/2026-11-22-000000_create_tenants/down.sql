DROP TABLE api_key;
DROP TABLE agent;
DROP TABLE account;
