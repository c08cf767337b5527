//! The database as it lies in the data directory, read past the server: what the API does not tell, and what
//! there is while no server runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::sqlite::SqliteConnection;

use crate::app::App;

const HOLDS: &str = "SELECT h.id, h.session_id AS session, h.completion_id AS completion, h.state, h.reason, \
    h.amount, h.mark_prompt, h.mark_output, u.prompt, u.output, u.source, u.charged, u.written_off \
    FROM hold h LEFT JOIN usage_record u ON u.hold_id = h.id";
const ENTRIES: &str = "SELECT account_id AS account, seq, kind, hold_id AS hold, external_ref AS reference, \
    delta FROM ledger_entry ORDER BY account_id, seq";
const HELD: &str = "SELECT COALESCE(SUM(held), 0) AS amount FROM account";

/// A hold with its usage record, if it has one.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Hold {
    /// Its id.
    #[diesel(sql_type = Text)]
    pub id: String,
    /// The session whose turn it pays.
    #[diesel(sql_type = Text)]
    pub session: String,
    /// The answer that it pays.
    #[diesel(sql_type = Text)]
    pub completion: String,
    /// `open`, `settled` or `released`.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// Why it was closed.
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    /// What is or was set aside.
    #[diesel(sql_type = BigInt)]
    pub amount: i64,
    /// Prompt tokens at the last checkpoint.
    #[diesel(sql_type = BigInt)]
    pub mark_prompt: i64,
    /// Output tokens at the last checkpoint.
    #[diesel(sql_type = BigInt)]
    pub mark_output: i64,
    /// Prompt tokens that were charged for.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub prompt: Option<i64>,
    /// Output tokens that were charged for.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub output: Option<i64>,
    /// Who counted them.
    #[diesel(sql_type = Nullable<Text>)]
    pub source: Option<String>,
    /// What was charged.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub charged: Option<i64>,
    /// What the operator bore.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub written_off: Option<i64>,
}

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Entry {
    /// Whose.
    #[diesel(sql_type = Text)]
    pub account: String,
    /// Its number.
    #[diesel(sql_type = BigInt)]
    pub seq: i64,
    /// What it is for.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// The hold that it charges.
    #[diesel(sql_type = Nullable<Text>)]
    pub hold: Option<String>,
    /// What a payment is called elsewhere.
    #[diesel(sql_type = Nullable<Text>)]
    pub reference: Option<String>,
    /// The movement.
    #[diesel(sql_type = BigInt)]
    pub delta: i64,
}

#[derive(QueryableByName)]
struct Amount {
    #[diesel(sql_type = BigInt)]
    amount: i64,
}

/// Everything about money at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// All holds, by id.
    pub holds: BTreeMap<String, Hold>,
    /// All entries, by account and number.
    pub entries: Vec<Entry>,
    /// What all accounts hold together.
    pub held: i64,
}

impl Snapshot {
    /// Of a server that runs.
    pub fn live(app: &App) -> Self {
        Self::read(&app.data().join("switchboard.db"))
    }

    /// Of a server that has ended, however it did. Read from a copy, because SQLite tidies up what it opens, and
    /// tidying up is what the next start has to prove.
    pub fn dead(app: &App) -> Self {
        let copy = tempfile::tempdir().expect("a directory for the copy");
        for name in ["switchboard.db", "switchboard.db-wal"] {
            let from = app.data().join(name);
            if from.exists() {
                fs::copy(from, copy.path().join(name)).expect("the database can be copied");
            }
        }
        Self::read(&copy.path().join("switchboard.db"))
    }

    fn read(file: &Path) -> Self {
        let mut conn = open(file);
        conn.transaction(|conn| {
            let holds: Vec<Hold> = diesel::sql_query(HOLDS).load(conn)?;
            let entries = diesel::sql_query(ENTRIES).load(conn)?;
            let held: Amount = diesel::sql_query(HELD).get_result(conn)?;
            let holds = holds.into_iter().map(|hold| (hold.id.clone(), hold)).collect();
            QueryResult::Ok(Self { holds, entries, held: held.amount })
        })
        .expect("the database can be read")
    }

    /// The holds in this state.
    pub fn in_state<'a>(&'a self, state: &'a str) -> impl Iterator<Item = &'a Hold> {
        self.holds.values().filter(move |hold| hold.state == state)
    }

    /// The one hold that there is.
    pub fn only_hold(&self) -> &Hold {
        assert_eq!(self.holds.len(), 1, "in {:?}", self.holds);
        self.holds.values().next().expect("one")
    }

    /// The charges.
    pub fn charges(&self) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| entry.kind == "charge").collect()
    }
}

/// Keeps everybody else from writing to the database of a running server until it is dropped.
pub struct WriteLock(SqliteConnection);

impl WriteLock {
    /// Waits for the writer's turn and takes it.
    pub fn take(app: &App) -> Self {
        let mut conn = open(&app.data().join("switchboard.db"));
        conn.batch_execute("BEGIN IMMEDIATE").expect("the database can be locked");
        Self(conn)
    }

    /// Makes a change that nobody could come before, and lets the others go on.
    pub fn change(mut self, statement: &str) {
        self.0.batch_execute(&format!("{statement}; COMMIT")).expect("a change");
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        let _ = self.0.batch_execute("ROLLBACK");
    }
}

fn open(file: &Path) -> SqliteConnection {
    let url = file.to_str().expect("a path of text");
    let mut conn = SqliteConnection::establish(url).expect("the database can be opened");
    conn.batch_execute("PRAGMA busy_timeout = 30000").expect("the connection can be set up");
    conn
}

/// Changes the database past the server.
pub fn change(app: &App, statement: &str) {
    open(&app.data().join("switchboard.db")).batch_execute(statement).expect("a change");
}

/// The one number that a query tells.
pub fn number(app: &App, query: &str) -> i64 {
    let mut conn = open(&app.data().join("switchboard.db"));
    let query = format!("SELECT ({query}) AS amount");
    diesel::sql_query(query).get_result::<Amount>(&mut conn).expect("a number").amount
}
