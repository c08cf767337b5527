//! What befalls a whole batch: a lock that another process holds, a database that may not grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use super::*;
use crate::store::writer::fault::Fault;

/// How long the writer of these tests waits for a lock, in milliseconds.
const LOCK_WAIT_MS: u64 = 30;

fn impatient(conn: &mut SqliteConnection) {
    conn.batch_execute(&format!("PRAGMA busy_timeout = {LOCK_WAIT_MS};")).expect("a pragma");
}

/// Another process, as far as SQLite can tell.
fn stranger(rig: &Rig) -> SqliteConnection {
    let file = connection::database_file(&rig.directory);
    let mut conn = SqliteConnection::establish(file.to_str().expect("a path")).expect("a connection");
    conn.batch_execute("PRAGMA busy_timeout = 30000;").expect("a pragma");
    conn
}

#[test]
fn while_the_database_is_locked_opens_are_refused_and_closes_land_afterwards() {
    let rig = Rig::start_with(impatient);
    let mut other = stranger(&rig);
    other.batch_execute("BEGIN IMMEDIATE;").expect("the lock");
    let began = Instant::now();
    let mut close = rig.note(Lane::Close, "close");
    let opens = [rig.note(Lane::Open, "one"), rig.note(Lane::Open, "two")];
    for open in opens {
        assert!(is_unavailable(&answer(open)));
    }
    until(|| rig.counts().failed_batches >= 4);
    // Each try waits for the lock, and then a little before the next: no spinning.
    assert!(began.elapsed() >= Duration::from_millis(4 * LOCK_WAIT_MS));
    assert!(waits(&mut close));
    other.batch_execute("COMMIT;").expect("the lock goes");
    answer(close).expect("a note");
    answer(rig.note(Lane::Open, "three")).expect("a note");
    assert_eq!(rig.notes(), ["close", "three"]);
    assert_eq!(rig.counts().refused_opens, 2);
    assert_eq!(rig.ballast(), Some(SMALL_BALLAST), "a lock is not a full disk");
}

#[test]
fn opens_that_came_while_the_lock_was_waited_for_are_refused_with_the_batch() {
    let rig = Rig::start_with(|conn| conn.batch_execute("PRAGMA busy_timeout = 1000;").expect("a pragma"));
    let mut other = stranger(&rig);
    other.batch_execute("BEGIN IMMEDIATE;").expect("the lock");
    // The first goes to the writer, the others gather; a batch of them at a time would each wait for the lock.
    let opens: Vec<_> = (0..600).map(|at| rig.note(Lane::Open, &at.to_string())).collect();
    for open in opens {
        assert!(is_unavailable(&answer(open)));
    }
    assert_eq!((rig.counts().failed_batches, rig.counts().refused_opens), (1, 600));
    other.batch_execute("COMMIT;").expect("the lock goes");
}

#[test]
fn a_stop_does_not_wait_for_a_lock_for_ever() {
    let mut rig = Rig::start_with(impatient);
    let mut other = stranger(&rig);
    other.batch_execute("BEGIN IMMEDIATE;").expect("the lock");
    let close = rig.note(Lane::Close, "close");
    rig.stop();
    assert!(is_unavailable(&answer(close)));
}

/// The greatest number of pages that the database of a test may have; what it writes looks there first.
#[derive(Clone)]
struct Limit(Arc<AtomicI64>);

impl Limit {
    /// Leaves room for `pages` more than there are.
    fn beyond(rig: &Rig, pages: i64) -> Self {
        #[derive(QueryableByName)]
        struct Pages {
            #[diesel(sql_type = BigInt)]
            page_count: i64,
        }
        let now = diesel::sql_query("PRAGMA page_count").get_result::<Pages>(&mut rig.reader());
        Self(Arc::new(AtomicI64::new(now.expect("a count").page_count + pages)))
    }

    fn lift(&self) {
        self.0.store(1_000_000, SeqCst);
    }

    fn note(&self, rig: &Rig, lane: Lane, name: &str, bytes: i64) -> Answer<()> {
        let (limit, name) = (self.clone(), name.to_owned());
        rig.submit(lane, move |conn| {
            conn.batch_execute(&format!("PRAGMA max_page_count = {};", limit.0.load(SeqCst)))?;
            Ok(note(conn, &name, bytes)?)
        })
    }
}

#[test]
fn a_batch_that_does_not_fit_is_undone_as_a_whole_and_its_closes_are_made_again() {
    let rig = Rig::start();
    answer(rig.note(Lane::Open, "there")).expect("a note");
    let limit = Limit::beyond(&rig, 4);
    let gate = rig.close_gate();
    let small = limit.note(&rig, Lane::Close, "small", 10);
    let mut large = limit.note(&rig, Lane::Close, "large", 100_000);
    let open = limit.note(&rig, Lane::Open, "open", 10);
    drop(gate);
    assert!(is_unavailable(&answer(open)));
    // By itself it fits, and batches get smaller until it is by itself.
    answer(small).expect("a note");
    let began = Instant::now();
    let failed = rig.counts().failed_batches;
    until(|| rig.counts().failed_batches >= failed + 4);
    assert!(began.elapsed() >= Duration::from_millis(100), "the waits between tries get longer");
    assert!(waits(&mut large));
    assert_eq!(rig.notes(), ["small", "there"]);
    limit.lift();
    answer(large).expect("a note");
    assert_eq!(rig.notes(), ["large", "small", "there"]);
    assert_eq!(rig.counts().refused_opens, 1);
}

#[test]
fn when_it_does_not_fit_the_ballast_goes_and_comes_back_with_the_next_open() {
    let rig = Rig::start();
    answer(rig.note(Lane::Open, "there")).expect("a note");
    assert_eq!(rig.ballast(), Some(SMALL_BALLAST));
    let limit = Limit::beyond(&rig, 4);
    assert!(is_unavailable(&answer(limit.note(&rig, Lane::Open, "large", 100_000))));
    until(|| rig.counts().disk_full);
    assert_eq!(rig.ballast(), None);
    limit.lift();
    answer(limit.note(&rig, Lane::Close, "close", 100_000)).expect("a note");
    assert!(rig.counts().disk_full && rig.ballast().is_none(), "closes do not ask for room");
    answer(limit.note(&rig, Lane::Open, "open", 10)).expect("a note");
    until(|| !rig.counts().disk_full);
    assert_eq!(rig.ballast(), Some(SMALL_BALLAST));
}

#[test]
fn a_fault_that_a_piece_keeps_to_itself_undoes_the_batch_all_the_same() {
    let rig = Rig::start();
    answer(rig.note(Lane::Open, "there")).expect("a note");
    let limit = Limit::beyond(&rig, 4);
    let gate = rig.close_gate();
    let before = rig.note(Lane::Open, "before");
    let careless = rig.submit(Lane::Open, move |conn| {
        conn.batch_execute(&format!("PRAGMA max_page_count = {};", limit.0.load(SeqCst)))?;
        let _ = conn.transaction(|conn| note(conn, "large", 100_000));
        Ok(())
    });
    drop(gate);
    assert!(is_unavailable(&answer(before)));
    assert!(is_unavailable(&answer(careless)));
    assert_eq!(rig.notes(), ["there"]);
}

/// The texts are all there is to tell faults apart by, so each that can be provoked is.
#[test]
fn faults_are_told_by_what_sqlite_says() {
    let owned = tempfile::tempdir().expect("a directory");
    let path = |name: &str| owned.path().join(name).to_str().expect("a path").to_owned();
    let open = |name: &str| SqliteConnection::establish(&path(name)).expect("a connection");
    let fault = |conn: &mut SqliteConnection, sql: &str| {
        let error = conn.batch_execute(sql).expect_err("a fault");
        (Fault::of(&error), error.to_string())
    };
    let mut conn = open("a");
    conn.batch_execute("CREATE TABLE t (x PRIMARY KEY); INSERT INTO t VALUES (1);").expect("a table");
    let (told, text) = fault(&mut conn, "INSERT INTO t VALUES (1);");
    assert_eq!(told, None, "{text}");
    let (told, text) =
        fault(&mut conn, "PRAGMA max_page_count = 3; INSERT INTO t VALUES (randomblob(9999));");
    assert_eq!(told, Some(Fault::Full), "{text}");
    let (told, text) = fault(&mut open("a"), "PRAGMA query_only = ON; INSERT INTO t VALUES (2);");
    assert_eq!(told, Some(Fault::Broken), "{text}");
    let mut other = open("a");
    other.batch_execute("BEGIN IMMEDIATE;").expect("the lock");
    let (told, text) = fault(&mut conn, "BEGIN IMMEDIATE;");
    assert_eq!(told, Some(Fault::Locked), "{text}");
    drop((conn, other));
    let mut bytes = std::fs::read(path("a")).expect("a file");
    bytes[4_096..].fill(0x5a);
    std::fs::write(path("a"), &bytes).expect("a file");
    let (told, text) = fault(&mut open("a"), "INSERT INTO t VALUES (3);");
    assert_eq!(told, Some(Fault::Broken), "{text}");
    bytes[..100].fill(0x5a);
    std::fs::write(path("a"), &bytes).expect("a file");
    let (told, text) = fault(&mut open("a"), "INSERT INTO t VALUES (3);");
    assert_eq!(told, Some(Fault::Broken), "{text}");
}
