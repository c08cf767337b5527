DROP TABLE request_key;
DROP TABLE key_budget;
DROP TABLE usage_record;
DROP TABLE ledger_entry;
DROP TABLE hold;
DROP TABLE price;
DROP TABLE node_epoch;
