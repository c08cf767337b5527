ALTER TABLE hold DROP COLUMN served_price_id;
ALTER TABLE hold DROP COLUMN served_model;
ALTER TABLE hold DROP COLUMN served_by;
