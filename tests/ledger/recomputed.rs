//! The same books, computed again by a program that shares no code with the server, and what both checks say of
//! books that somebody has changed by hand.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use switchboard::store::{connection, verify};
use tempfile::TempDir;

use crate::model::{Model, State};
use crate::simulation::Simulation;

diesel::table! {
    sqlite_master (name) {
        name -> Text,
        #[sql_name = "type"]
        kind -> Text,
    }
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recompute.py");
/// Seeds beyond those of the other tests.
const FIRST_SEED: u64 = 1_000_000;
const STEPS: u64 = 200;

/// A statement, the invariant that it breaks, and what the script says of it.
const TAMPERINGS: [(&str, &str, &str); 14] = [
    ("UPDATE account SET available = available + 1 WHERE account_id = 'acct_1'", "I1", "account acct_1: has"),
    (
        "UPDATE account SET available = available - 1, held = held + 1 WHERE available > 0",
        "I2",
        "open holds make",
    ),
    ("UPDATE hold SET amount = amount + 1 WHERE state = 'open'", "I2", "open holds make"),
    ("DELETE FROM ledger_entry WHERE account_id = 'acct_1' AND seq = 2", "I3", "stands where 2 should"),
    (
        "DELETE FROM ledger_entry WHERE hold_id = (SELECT max(hold_id) FROM usage_record)",
        "I5",
        "with 0 charges",
    ),
    ("UPDATE ledger_entry SET delta = delta - 1 WHERE seq = 1", "I4", "the sum is"),
    ("UPDATE ledger_entry SET balance_after = balance_after + 1 WHERE seq = 2", "I4", "the sum is"),
    (
        "UPDATE hold SET cost = NULL WHERE id = (SELECT max(hold_id) FROM usage_record)",
        "I5",
        "0 usage records",
    ),
    ("UPDATE hold SET state = 'released' WHERE state = 'settled'", "I5", "released, with 1 charges"),
    (
        "UPDATE hold SET state = 'open', closed_at = NULL WHERE state = 'settled'",
        "I5",
        "open, with 1 charges",
    ),
    ("UPDATE hold SET state = 'settled' WHERE state = 'released'", "I5", "settled, with 0 charges"),
    (
        "UPDATE hold SET cost = cost + 1, charged = charged + 1 WHERE cost IS NOT NULL",
        "I6",
        "but its price makes",
    ),
    ("UPDATE price SET per_request = per_request + 1", "I6", "but its price makes"),
    ("UPDATE key_budget SET held = held + 1", "I8", "budget of key_"),
];

/// Runs the script on a data directory; `None`, said aloud, where there is no Python.
fn recompute(data: &Path) -> Option<Output> {
    match Command::new("python3").arg(SCRIPT).arg(data).output() {
        Ok(done) => Some(done),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: python3 is not installed, so tests/recompute.py was not run");
            None
        }
        Err(cause) => panic!("python3 could not be started: {cause}"),
    }
}

fn assert_agrees(data: &Path) {
    let Some(done) = recompute(data) else { return };
    let (said, wrong) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}{wrong}");
    assert!(said.contains("every balance and every cost agrees"), "{said}");
}

/// Whether there is something of everything to tamper with.
fn is_rich(model: &Model) -> bool {
    let has = |state| model.holds.iter().any(|hold| hold.state == state && hold.amount > 0);
    let several = model.accounts.values().all(|own| own.entries.len() > 3);
    has(State::Open) && has(State::Settled) && has(State::Released) && several && !model.budgets.is_empty()
}

fn rich_database() -> Simulation {
    let mut runs = (FIRST_SEED..).map(|seed| Simulation::run(seed, STEPS, false));
    let mut run = runs.find(|run| is_rich(&run.model)).expect("seeds do not end");
    run.database.close();
    run
}

/// A copy of the database on which `statement` was run, triggers, checks and foreign keys notwithstanding.
fn tampered(original: &Path, statement: &str) -> (TempDir, SqliteConnection) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = connection::database_file(dir.path());
    fs::copy(connection::database_file(original), &file).expect("a copied database");
    let mut conn = SqliteConnection::establish(file.to_str().expect("UTF-8")).expect("the database opens");
    conn.batch_execute("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;").expect("settings");
    let triggers: Vec<String> = sqlite_master::table
        .filter(sqlite_master::kind.eq("trigger"))
        .select(sqlite_master::name)
        .load(&mut conn)
        .expect("names of triggers");
    assert!(triggers.len() >= 6, "entries, usage and prices are kept from being changed: {triggers:?}");
    for trigger in triggers {
        conn.batch_execute(&format!("DROP TRIGGER {trigger};")).expect("a dropped trigger");
    }
    let changed = diesel::sql_query(statement).execute(&mut conn).expect("the statement runs");
    assert!(changed > 0, "it changes something: {statement}");
    (dir, conn)
}

fn broken(conn: &mut SqliteConnection) -> Vec<String> {
    let report = verify::run(conn).expect("the database can be checked");
    assert_eq!(report.ok, report.checks.iter().all(|check| check.violations == 0));
    report.checks.into_iter().filter(|check| check.violations > 0).map(|check| check.name).collect()
}

#[test]
fn a_recomputation_without_the_servers_code_agrees_with_the_books() {
    for seed in FIRST_SEED..FIRST_SEED + 8 {
        let mut run = Simulation::run(seed, STEPS, false);
        // In use and with its log not merged, as beside a running server or after a crash; then closed.
        assert_agrees(run.database.dir());
        run.database.close();
        assert_agrees(run.database.dir());
    }
}

#[test]
fn books_that_were_changed_by_hand_are_seen_by_the_server_and_by_the_recomputation() {
    let run = rich_database();
    for (statement, invariant, named) in TAMPERINGS {
        let (dir, mut conn) = tampered(run.database.dir(), statement);
        let found = broken(&mut conn);
        assert!(found.iter().any(|name| name.starts_with(invariant)), "{statement}: {found:?}");
        let Some(done) = recompute(dir.path()) else { continue };
        let wrong = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{statement}: {wrong}");
        assert!(wrong.contains(named), "{statement}: {wrong}");
    }
}

#[test]
fn an_edited_entry_whose_figures_still_agree_is_seen_by_the_chain_of_hashes_alone() {
    let run = rich_database();
    for statement in [
        "UPDATE ledger_entry SET note = 'another reason' WHERE seq = 1",
        "UPDATE ledger_entry SET actor = 'somebody else' WHERE seq = 2",
        "UPDATE ledger_entry SET created_at = created_at + 1 WHERE seq = 1",
    ] {
        let (dir, mut conn) = tampered(run.database.dir(), statement);
        let found = broken(&mut conn);
        assert!(matches!(&found[..], [only] if only.starts_with("H1")), "{statement}: {found:?}");
        assert_agrees(dir.path());
    }
}

#[test]
fn entries_usage_and_prices_cannot_be_changed_by_a_plain_statement() {
    let mut run = rich_database();
    run.database.crash();
    for statement in [
        "UPDATE ledger_entry SET delta = delta WHERE seq = 1",
        "DELETE FROM ledger_entry WHERE seq = 1",
        "UPDATE hold SET source = 'local' WHERE cost IS NOT NULL",
        "UPDATE hold SET state = 'open' WHERE state = 'released'",
        "DELETE FROM hold WHERE state = 'open'",
        "UPDATE price SET output = output",
        "DELETE FROM price",
    ] {
        let refused = diesel::sql_query(statement).execute(run.database.conn());
        let refused = refused.expect_err("a trigger refuses it").to_string();
        assert!(refused.contains("append-only"), "{statement}: {refused}");
    }
    assert!(broken(run.database.conn()).is_empty());
}
