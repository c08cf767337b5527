PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (state = ''open'' OR state = ''settled'' OR state = ''released'')',
  'CHECK (state IN (''open'', ''settled'', ''released''))') WHERE type = 'table' AND name = 'hold';
UPDATE sqlite_schema SET sql = replace(sql,
  'CHECK (kind = ''charge'' OR kind = ''topup'' OR kind = ''refund'' OR kind = ''adjust'' OR kind = ''grant'' OR kind = ''expire'')',
  'CHECK (kind IN (''topup'', ''charge'', ''refund'', ''adjust'', ''grant'', ''expire''))') WHERE type = 'table' AND name = 'ledger_entry';
UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (source = ''upstream'' OR source = ''local'' OR source = ''recovered'')',
  'CHECK (source IN (''upstream'', ''local'', ''recovered''))') WHERE type = 'table' AND name = 'usage_record';
PRAGMA writable_schema = RESET;
