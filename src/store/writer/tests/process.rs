//! Faults after which the process ends at once, each in a process of its own.

use std::path::Path;
use std::process::{Command, Output};

use super::*;
use crate::store::epoch;
use crate::store::writer::UNSURE_EXIT;

const SCENARIO: &str = "SWITCHBOARD_TEST_SCENARIO";
const DIRECTORY: &str = "SWITCHBOARD_TEST_DIRECTORY";
/// What a child ends with when the writer has not ended it.
const SURVIVED: i32 = 3;

/// Syncs by the writer before the one that fails: more than any other thread makes, as they are counted by thread.
const SYNCS: usize = 50;

/// Not a test: what the tests below run in a process of its own.
#[test]
#[ignore = "runs in a process of its own"]
fn child() {
    let (Ok(scenario), Ok(directory)) = (std::env::var(SCENARIO), std::env::var(DIRECTORY)) else { return };
    let directory = PathBuf::from(directory);
    let rig = Rig::start_in(directory.clone(), |_| {});
    answer(rig.note(Lane::Open, "kept")).expect("a note");
    println!("kept");
    match scenario.as_str() {
        // A write beyond the limit that the process was started with fails, and not for want of space.
        "write" => {
            let large = rig.submit(Lane::Close, |conn| Ok(note(conn, "large", 4 << 20)?));
            println!("answered {:?}", answer(large));
        }
        // The sync of the last one fails.
        "sync" => {
            for at in 0..SYNCS {
                answer(rig.note(Lane::Open, &format!("kept {at}"))).expect("a note");
            }
            println!("answered {:?}", answer(rig.note(Lane::Close, "unsure")));
        }
        "damage" => {
            damage(&connection::database_file(&directory));
            println!("answered {:?}", answer(rig.note(Lane::Close, "unsure")));
        }
        "takeover" => {
            let mut other =
                connection::open_writer(&connection::database_file(&directory)).expect("a connection");
            let own = epoch::begin(&mut other, "us", 0).expect("a run");
            rig.writer.watch_epoch(own);
            answer(rig.note(Lane::Open, "ours")).expect("a note");
            epoch::begin(&mut other, "another", 0).expect("a run");
            println!("answered {:?}", answer(rig.note(Lane::Close, "unsure")));
        }
        _ => panic!("no such scenario"),
    }
    std::process::exit(SURVIVED);
}

/// Fills the database with nonsense, where every page is read again.
fn damage(file: &Path) {
    let mut other = SqliteConnection::establish(file.to_str().expect("a path")).expect("a connection");
    other.batch_execute("PRAGMA wal_checkpoint(TRUNCATE); CREATE TABLE forget_what_you_know (x); PRAGMA wal_checkpoint(TRUNCATE);").expect("an empty log");
    let mut bytes = std::fs::read(file).expect("a file");
    bytes[4_096..].fill(0x5a);
    std::fs::write(file, bytes).expect("a file");
}

/// Runs a scenario under `wrapper`, a command that runs its arguments.
fn run(scenario: &str, directory: &Path, wrapper: &[&str]) -> Output {
    let this = std::env::current_exe().expect("this program");
    let mut words = wrapper.iter().map(std::ffi::OsStr::new).chain([this.as_os_str()]);
    Command::new(words.next().expect("a program"))
        .args(words)
        .args([
            concat!(module_path!(), "::child").trim_start_matches("switchboard::"),
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(SCENARIO, scenario)
        .env(DIRECTORY, directory)
        .output()
        .expect("a process")
}

#[track_caller]
fn ended_at_once(output: &Output) {
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("kept"), "it did not come so far: {output:?}");
    assert!(!told.contains("answered"), "somebody was answered: {output:?}");
    assert_eq!(output.status.code(), Some(UNSURE_EXIT), "{output:?}");
}

#[track_caller]
fn notes_after_recovery(directory: &Path) -> Vec<String> {
    names(&mut connection::open_writer(&connection::database_file(directory)).expect("a database"))
}

#[test]
fn a_write_that_fails_ends_the_process() {
    let directory = tempfile::tempdir().expect("a directory");
    // Files of at most 1.5 or 3 MiB, by the shell's unit, and an error instead of a signal for what goes beyond.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 3072; exec \"$@\"", "sh"];
    ended_at_once(&run("write", directory.path(), &limited));
    assert_eq!(notes_after_recovery(directory.path()), ["kept"]);
}

#[test]
fn a_database_that_is_damaged_ends_the_process() {
    let directory = tempfile::tempdir().expect("a directory");
    ended_at_once(&run("damage", directory.path(), &[]));
}

#[test]
fn another_server_on_the_same_database_ends_the_process() {
    let directory = tempfile::tempdir().expect("a directory");
    ended_at_once(&run("takeover", directory.path(), &[]));
    assert_eq!(notes_after_recovery(directory.path()), ["kept", "ours"]);
}

#[test]
fn a_sync_that_fails_ends_the_process_and_is_not_tried_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("syncs");
    let log = log.to_str().expect("a path");
    let quiet = ["strace", "-f", "-qq", "-o", log, "-e", "trace=fsync,fdatasync"];
    if !Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .output()
        .is_ok_and(|done| done.status.success())
    {
        eprintln!("SKIPPED: strace, which can make a sync fail, does not work here");
        return;
    }
    // Without a fault it survives; that tells which of the writer's syncs is the last.
    let output = run("sync", directory.path(), &quiet);
    assert_eq!(output.status.code(), Some(SURVIVED), "{output:?}");
    let last = syncs_of_last_thread(log);
    assert!(last > SYNCS, "{last}");
    let directory = tempfile::tempdir().expect("a directory");
    let fail = format!("inject=fsync,fdatasync:error=EIO:when={last}");
    let faulty = [&quiet[..], &["-e", &fail]].concat();
    ended_at_once(&run("sync", directory.path(), &faulty));
    assert_eq!(syncs_of_last_thread(log), last, "no sync after the one that failed");
    // The next start finds the last one or not; what was answered is there.
    let notes = notes_after_recovery(directory.path());
    assert_eq!(notes.iter().filter(|name| name.starts_with("kept")).count(), SYNCS + 1);
}

/// How often the thread that made the last sync made one.
fn syncs_of_last_thread(log: &str) -> usize {
    let log = std::fs::read_to_string(log).expect("a log");
    let threads: Vec<_> = log.lines().filter_map(|line| line.split(' ').next()).collect();
    threads.iter().filter(|thread| Some(*thread) == threads.last()).count()
}
