//! The write-ahead log goes into the database while the writer writes on.

use super::*;
use crate::store::writer::merge::{Merger, pages};

/// Bytes of a note that takes up some 25 pages.
const LARGE: i64 = 100_000;

fn large(rig: &Rig, name: String) -> Answer<()> {
    rig.submit(Lane::Open, move |conn| Ok(note(conn, &name, LARGE)?))
}

#[test]
fn a_log_is_merged_by_another_thread_each_time_that_it_is_told_to() {
    let rig = Rig::start();
    let database = connection::database_file(&rig.directory);
    let mut conn = connection::open_writer(&database).expect("a connection");
    conn.batch_execute("PRAGMA wal_autocheckpoint = 0;").expect("a setting");
    let mut merger = Merger::of(Some(database));
    assert!(!merger.ended() && !merger.wait(), "nothing has begun");
    for time in 0..3 {
        note(&mut conn, &format!("{time}"), LARGE).expect("a note");
        assert!(pages(&mut conn) > 0);
        merger.begin();
        until(|| merger.ended());
        assert_eq!(pages(&mut conn), 0);
        assert!(!merger.ended(), "its end is told once");
    }
    assert_eq!(rig.notes(), ["0", "1", "2"]);
}

#[test]
fn a_log_stays_short_and_what_is_written_meanwhile_stays_whole() {
    let mut rig = Rig::start();
    for at in 0..1_000 {
        answer(large(&rig, format!("{at:03}"))).expect("a note");
    }
    // A hundred million bytes went through it.
    assert!(rig.log_bytes() < 20 << 20, "{}", rig.log_bytes());
    assert_eq!(rig.notes().len(), 1_000);
    rig.stop();
    assert_eq!(rig.log_bytes(), 0, "the log is merged");
    assert_eq!(rig.notes().len(), 1_000);
}

#[test]
fn a_log_that_somebody_reads_is_merged_when_they_are_done() {
    let mut rig = Rig::start();
    answer(rig.note(Lane::Open, "there")).expect("a note");
    let mut reader = rig.reader();
    reader.batch_execute("BEGIN;").expect("a transaction");
    assert_eq!(names(&mut reader), ["there"]);
    for at in 0..500 {
        answer(large(&rig, format!("{at:03}"))).expect("a note");
    }
    let kept = rig.log_bytes();
    assert!(kept > 50_000_000, "what is read may not be overwritten: {kept}");
    assert_eq!(names(&mut reader), ["there"], "the reader sees what it saw");
    reader.batch_execute("COMMIT;").expect("the end");
    for at in 500..1_000 {
        answer(large(&rig, format!("{at:03}"))).expect("a note");
    }
    let now = rig.log_bytes();
    assert!(now < kept + (20 << 20), "the log has begun anew in its own room: {kept}, then {now}");
    assert_eq!(rig.notes().len(), 1_001);
    rig.stop();
}
