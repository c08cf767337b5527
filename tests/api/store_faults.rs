//! A disk that is full and a database that another process has locked: work that was begun is charged, new work is
//! refused before anybody is asked, and when the trouble is over the server goes on without help.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::app::{App, Setup, eventually};
use crate::client::{Answer, Stream};
use crate::crash_load::{START, price};
use crate::database::{Snapshot, WriteLock};
use crate::script::Reply;
use crate::upstream::Gate;

/// Room for the server's ballast and a little more.
const DISK: &str = "size=40m";
/// What one message brings along, so that a full disk is noticed soon.
const LARGE: usize = 256 * 1024;
/// How often it is tried until the last room is used up.
const TRIES: usize = 1_000;
const STREAMS: usize = 3;

/// A server whose data lies on a disk of its own; `None`, said aloud, where none can be mounted.
fn on_a_small_disk() -> Option<App> {
    let at = tempfile::tempdir().expect("a directory");
    let tried = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at.path()).output();
    if !tried.as_ref().is_ok_and(|done| done.status.success()) {
        println!("SKIPPED: no small disk can be mounted here, so none can be filled");
        return None;
    }
    let gone = Command::new("umount").arg(at.path()).status().expect("umount can be run");
    assert!(gone.success());
    Some(Setup::default().disk(DISK).start())
}

fn filler(app: &App) -> PathBuf {
    app.data().join("filler")
}

/// Takes up all the room that is left.
fn fill(app: &App) {
    let mut file = File::options().create(true).append(true).open(filler(app)).expect("a file");
    for size in [1 << 16, 1 << 10, 1] {
        let block = vec![0x5a; size];
        while file.write_all(&block).is_ok() {}
    }
}

/// Streams that have begun and wait.
fn begun(app: &App, gate: &Gate) -> Vec<Stream> {
    app.upstream.always(Reply::says(&["a ", "few ", "words"]).usage(9, 3).pause_after(2, gate));
    let open = |at: usize| {
        let mut stream = app.stream("Hello", json!({"session_id": format!("s{at}"), "max_tokens": 100}));
        // The role comes first, in a chunk of its own.
        (0..=2).for_each(|_| drop(stream.chunk()));
        stream
    };
    (0..STREAMS).map(open).collect()
}

fn end_whole(streams: Vec<Stream>) {
    for mut stream in streams {
        assert!(stream.rest().last().is_some_and(|event| event.is_done()), "an answer without its end");
    }
}

fn ask(app: &App, text: &str) -> Answer {
    app.chat(&app.saying(text, json!({"max_tokens": 100})))
}

fn is_refused_and_may_be_retried(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!((1..=60).contains(&answer.headers.number("retry-after")));
}

#[test]
fn on_a_full_disk_what_runs_is_charged_what_is_new_waits_and_nothing_is_lost() {
    let Some(mut app) = on_a_small_disk() else { return };
    let gate = app.upstream.gate();
    let streams = begun(&app, &gate);
    app.upstream.always(Reply::says(&["short"]).usage(9, 1));
    fill(&app);
    let large = "x".repeat(LARGE);
    let mut answered = 0;
    let refused = (0..TRIES).find_map(|_| {
        let answer = ask(&app, &large);
        answered += i64::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    });
    is_refused_and_may_be_retried(&refused.expect("the disk is not full"));
    let asked = app.upstream.asked();
    is_refused_and_may_be_retried(&ask(&app, "Hello"));
    assert_eq!(app.upstream.asked(), asked, "the provider was asked for nothing");
    gate.open();
    end_whole(streams);
    let spent = answered * price(9, 1) + STREAMS as i64 * price(9, 3);
    assert_eq!(app.settled().balance, START - spent);
    app.verify_ledger();
    app.kill();
    app.start_again();
    app.verify_ledger();
    assert_eq!(app.balance().balance, START - spent);
    fs::remove_file(filler(&app)).expect("the filler goes");
    let after = eventually("there is room again", || {
        let answer = ask(&app, "Hello");
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(after.status, 200);
    assert_eq!(app.settled().balance, START - spent - price(9, 1));
    app.finish();
}

#[test]
fn a_locked_database_refuses_what_is_new_and_charges_what_ran_when_it_is_free_again() {
    let app = App::start();
    let gate = app.upstream.gate();
    let streams = begun(&app, &gate);
    app.upstream.always(Reply::says(&["short"]).usage(9, 1));
    let asked = app.upstream.asked();
    let lock = WriteLock::take(&app);
    let began = Instant::now();
    // What is known of the balance is believed once, before anybody can know that the database is not to be had.
    is_refused_and_may_be_retried(&ask(&app, "Hello"));
    is_refused_and_may_be_retried(&ask(&app, "Hello"));
    assert!(began.elapsed() < Duration::from_secs(60), "a client waits longer than it is told to");
    assert_eq!(app.upstream.asked(), asked + 1, "the provider was asked for nothing");
    gate.open();
    app.upstream.wait_until_idle();
    assert_eq!(Snapshot::live(&app).charges().len(), 0, "charged while the database is locked");
    drop(lock);
    // Those that waited too long for their charge end with an error event, and are charged all the same.
    streams.into_iter().for_each(|mut stream| drop(stream.rest()));
    assert_eq!(app.settled().balance, START - STREAMS as i64 * price(9, 3));
    assert_eq!(ask(&app, "Hello").status, 200);
    assert_eq!(app.settled().balance, START - STREAMS as i64 * price(9, 3) - price(9, 1));
    app.finish();
}
