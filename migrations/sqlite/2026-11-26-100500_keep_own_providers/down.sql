DROP TABLE account_provider;
