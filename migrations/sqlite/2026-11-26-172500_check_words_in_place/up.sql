-- A list of three words and more is checked through a table that SQLite makes for each row; the same words one by one
-- are compared in place. The text of a check is changed as SQLite's own documentation of ALTER TABLE tells.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (state IN (''open'', ''settled'', ''released''))',
  'CHECK (state = ''open'' OR state = ''settled'' OR state = ''released'')') WHERE type = 'table' AND name = 'hold';
UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (kind IN (''topup'', ''charge'', ''refund'', ''adjust'', ''grant'', ''expire''))',
  'CHECK (kind = ''charge'' OR kind = ''topup'' OR kind = ''refund'' OR kind = ''adjust'' OR kind = ''grant'' OR kind = ''expire'')')
  WHERE type = 'table' AND name = 'ledger_entry';
UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (source IN (''upstream'', ''local'', ''recovered''))',
  'CHECK (source = ''upstream'' OR source = ''local'' OR source = ''recovered'')') WHERE type = 'table' AND name = 'usage_record';
PRAGMA writable_schema = RESET;
