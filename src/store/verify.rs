//! Whether the books are right: every invariant of the ledger as a query that has to find nothing.

mod shared;

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;

use crate::store::connection;
use crate::store::ledger_entry::EntryRow;
use crate::store::lineage::anchor_after;
use crate::store::schema::ledger_entry;

/// The most offending rows that a check names.
const ROWS_SHOWN: usize = 20;

/// Each query yields the name of what is wrong in a column `row`.
const INVARIANTS: [(&str, &str); 14] = [
    (
        "I1 balance = sum of entries",
        "SELECT a.account_id AS row FROM account a
         LEFT JOIN (SELECT account_id, SUM(delta) s FROM ledger_entry GROUP BY account_id) e
         ON e.account_id = a.account_id WHERE a.available + a.held <> COALESCE(e.s, 0)",
    ),
    (
        "I2 held = open holds",
        "SELECT a.account_id AS row FROM account a
         LEFT JOIN (SELECT account_id, SUM(amount) s FROM hold WHERE state = 'open' GROUP BY account_id) h
         ON h.account_id = a.account_id WHERE a.held <> COALESCE(h.s, 0)",
    ),
    (
        "I3 no missing entry",
        "SELECT a.account_id AS row FROM account a
         LEFT JOIN (SELECT account_id, COUNT(*) n, MAX(seq) m FROM ledger_entry GROUP BY account_id) e
         ON e.account_id = a.account_id WHERE a.last_seq <> COALESCE(e.n, 0) OR a.last_seq <> COALESCE(e.m, 0)",
    ),
    (
        "I4 running balance adds up",
        "SELECT account_id || ' ' || seq AS row FROM (SELECT account_id, seq, delta, balance_after,
         LAG(balance_after, 1, 0) OVER (PARTITION BY account_id ORDER BY seq) p FROM ledger_entry)
         WHERE balance_after <> p + delta",
    ),
    (
        "I5 settled = one charge and one usage record",
        "SELECT h.id AS row FROM hold h LEFT JOIN ledger_entry e ON e.hold_id = h.id
         LEFT JOIN usage_record u ON u.hold_id = h.id
         WHERE (h.state = 'settled') <> (e.hold_id IS NOT NULL) OR (h.state = 'settled') <> (u.hold_id IS NOT NULL)
         OR e.delta <> -u.charged OR e.account_id <> h.account_id",
    ),
    (
        "I6 every cost follows from its price",
        "SELECT u.hold_id AS row FROM usage_record u JOIN price p ON p.id = u.price_id
         WHERE u.cost <> ((u.prompt - u.cached) * p.input + u.cached * p.cached_input + u.output * p.output + 999999)
         / 1000000 + p.per_request",
    ),
    (
        "I7 no orphan hold",
        "SELECT h.id AS row FROM hold h LEFT JOIN node_epoch n ON n.epoch = h.owner_epoch
         WHERE h.state = 'open' AND (n.epoch IS NULL OR n.ended_at IS NOT NULL)",
    ),
    (
        "I8 key budgets agree",
        "SELECT b.key_id AS row FROM key_budget b
         LEFT JOIN (SELECT key_id, SUM(amount) s FROM hold WHERE state = 'open' GROUP BY key_id) h
         ON h.key_id = b.key_id WHERE b.held <> COALESCE(h.s, 0)",
    ),
    (
        "S1 each message follows the one before it",
        concat!(
            "SELECT m.id AS row FROM message m LEFT JOIN message p ON p.id = m.previous_id
             WHERE m.seq <> COALESCE(p.seq, 0) + 1 OR (p.id IS NULL) <> (m.previous_id IS NULL)
             OR m.anchor_id IS NOT ",
            anchor_after!("p.id", "p.seq", "p.anchor_id")
        ),
    ),
    (
        "S2 counts of agents and sessions agree",
        "SELECT a.account_id AS row FROM account a
         WHERE a.agent_count <> (SELECT COUNT(*) FROM agent g WHERE g.account_id = a.account_id)
         OR a.session_count <> (SELECT COUNT(*) FROM session s WHERE s.account_id = a.account_id)",
    ),
    (
        "S3 a session ends with a message",
        "SELECT s.id AS row FROM session s LEFT JOIN message m ON m.id = s.message_id
         WHERE s.given > s.head OR s.head <> COALESCE(m.seq, 0) OR (m.id IS NULL) <> (s.message_id IS NULL)
         OR s.anchor_id IS NOT m.anchor_id",
    ),
    (
        "S4 no message is kept that no session has",
        "SELECT m.id AS row FROM message m LEFT JOIN (SELECT id, COUNT(*) n FROM
         (SELECT message_id AS id FROM session UNION ALL SELECT previous_id FROM message) GROUP BY id) r ON r.id = m.id
         WHERE m.reference_count <> COALESCE(r.n, 0) OR m.reference_count < 1",
    ),
    (
        "S5 nothing is shared between agents",
        "WITH RECURSIVE way (message_id, owner) AS (
         SELECT message_id, account_id || ' ' || agent_id FROM session WHERE message_id IS NOT NULL
         UNION SELECT m.previous_id, w.owner FROM way w JOIN message m ON m.id = w.message_id
         WHERE m.previous_id IS NOT NULL)
         SELECT message_id AS row FROM way GROUP BY message_id HAVING COUNT(*) > 1",
    ),
    (
        "S6 sessions are found by the notes they have",
        "SELECT s.id AS row FROM session s WHERE s.metadata IS NOT NULL AND NOT
         (SELECT COUNT(*) FROM json_each(s.metadata)) = (SELECT COUNT(*) FROM json_each(s.metadata) j
         CROSS JOIN session_metadata m WHERE m.session_id = s.id AND m.name = j.key AND m.value = j.value
         AND +m.account_id = s.account_id)
         UNION ALL SELECT m.session_id FROM session_metadata m JOIN session s ON s.id = m.session_id
         WHERE NOT EXISTS (SELECT 1 FROM json_each(s.metadata) j WHERE j.key = m.name)",
    ),
];

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether everything agrees.
    pub ok: bool,
    /// Each invariant.
    pub checks: Vec<Check>,
}

/// One invariant.
#[derive(Clone, Debug)]
pub struct Check {
    /// What has to hold.
    pub name: String,
    /// How many rows break it.
    pub violations: u64,
    /// The first of them.
    pub rows: Vec<String>,
}

#[derive(QueryableByName)]
struct Offender {
    #[diesel(sql_type = Text)]
    row: String,
}

/// Runs every check on one consistent view of the database.
pub fn run(conn: &mut SqliteConnection) -> QueryResult<Report> {
    conn.transaction(|conn| {
        let mut checks = Vec::with_capacity(INVARIANTS.len() + 2);
        for (name, query) in INVARIANTS {
            let query = format!("SELECT CAST(row AS TEXT) AS row FROM ({query})");
            let rows: Vec<Offender> = diesel::sql_query(query).load(conn)?;
            checks.push(check(name, rows.into_iter().map(|offender| offender.row).collect()));
        }
        checks.push(check("H1 the chain of hashes is whole", broken_links(conn)?));
        checks.push(check("H2 what is shared is what was said", shared::changed(conn)?));
        Ok(Report { ok: checks.iter().all(|check| check.violations == 0), checks })
    })
}

/// Checks the database of a data directory that no server uses, or that one is using.
pub fn offline(data: &Path) -> anyhow::Result<Report> {
    let file = connection::database_file(data);
    anyhow::ensure!(file.exists(), "there is no database at {}", file.display());
    let mut conn = connection::open_reader(&file)?;
    conn.batch_execute("PRAGMA query_only = ON;").context("opening the database for reading")?;
    run(&mut conn).context("checking the ledger")
}

fn check(name: &str, mut rows: Vec<String>) -> Check {
    let violations = rows.len() as u64;
    rows.truncate(ROWS_SHOWN);
    Check { name: name.to_owned(), violations, rows }
}

fn broken_links(conn: &mut SqliteConnection) -> QueryResult<Vec<String>> {
    let mut last: HashMap<String, String> = HashMap::new();
    let mut broken = Vec::new();
    let entries = ledger_entry::table
        .order((ledger_entry::account_id, ledger_entry::seq))
        .select(EntryRow::as_select())
        .load_iter::<EntryRow, diesel::connection::DefaultLoadingMode>(conn)?;
    for entry in entries {
        let entry = entry?;
        let previous = last.entry(entry.account_id.clone()).or_default();
        if entry.hash != entry.chained(previous) {
            broken.push(format!("{} {}", entry.account_id, entry.seq));
        }
        *previous = entry.hash;
    }
    Ok(broken)
}
