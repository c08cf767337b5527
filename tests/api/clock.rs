//! The machine's clock is set a year forward and back while money moves. Needs libfaketime (on Debian: the package
//! libfaketime), which `SWITCHBOARD_FAKETIME` may name; without it these tests say that they are skipped.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::app::{App, Setup, eventually};
use crate::client::Stream;
use crate::crash_load::{START, price};
use crate::database::Snapshot;
use crate::script::Reply;

const YEAR: i64 = 365;
const PLACES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
    "/opt/homebrew/lib/faketime/libfaketimeMT.so.1",
];

/// The wall clock of one server.
struct Clock {
    dir: TempDir,
    library: PathBuf,
}

impl Clock {
    /// A clock that goes right; `None` where there is no library to set it with.
    fn find() -> Option<Self> {
        let named = env::var_os("SWITCHBOARD_FAKETIME").map(PathBuf::from);
        let places = named.into_iter().chain(PLACES.iter().map(PathBuf::from));
        let Some(library) = places.into_iter().find(|place| place.exists()) else {
            println!("SKIPPED: libfaketime is not installed, so the clock cannot be set");
            return None;
        };
        let clock = Self { dir: tempfile::tempdir().expect("a directory for the clock"), library };
        clock.set(0);
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    /// Sets the clock so many days off.
    fn set(&self, days: i64) {
        let draft = self.dir.path().join("draft");
        fs::write(&draft, format!("{days:+}d\n")).expect("the clock can be set");
        fs::rename(draft, self.file()).expect("the clock can be set");
    }

    /// A server that goes by this clock. Only the time of day is set: what measures how long something takes is
    /// another clock, which nobody can set.
    fn server(&self) -> App {
        let text = |path: &Path| path.to_str().expect("a path of text").to_owned();
        Setup::default()
            .environment("LD_PRELOAD", &text(&self.library))
            .environment("FAKETIME_TIMESTAMP_FILE", &text(&self.file()))
            .environment("FAKETIME_NO_CACHE", "1")
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .environment("DONT_FAKE_MONOTONIC", "1")
            .environment("NO_FAKE_STAT", "1")
            .start()
    }

    /// Sets the clock of a running server, and makes sure that it goes by it.
    fn jump(&self, app: &App, days: i64) {
        self.set(days);
        let made =
            app.post(&app.account_key, "/v2/sessions", &json!({"agent_id": app.agent_id})).is(201).json();
        let told = made["created_at"].as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        let off = told.expect("a time") - OffsetDateTime::now_utc() - Duration::days(days);
        assert!(off.abs() < Duration::hours(1), "the server does not go by the clock: {made}");
    }
}

/// Opens a stream that waits after five of its nine pieces, and reads those.
fn paused_stream(app: &App, gate: &crate::upstream::Gate, session: &str) -> Stream {
    let reply = Reply { pieces: vec!["a piece ".to_owned(); 9], ..Reply::says(&[]) };
    app.upstream.next(reply.usage(9, 9).pause_after(5, gate));
    let mut stream = app.stream("Hello", json!({"session_id": session, "max_tokens": 100}));
    // The role comes first, in a chunk of its own.
    (0..=5).for_each(|_| drop(stream.chunk()));
    stream
}

fn wait_for_checkpoint(app: &App) {
    eventually("a checkpoint is written", || {
        Snapshot::live(app).in_state("open").any(|hold| hold.mark_output == 5).then_some(())
    });
}

#[test]
fn streams_that_run_when_the_clock_jumps_end_whole_and_are_charged_once() {
    let Some(clock) = Clock::find() else { return };
    let app = clock.server();
    for (turn, days) in [YEAR, -YEAR].into_iter().enumerate() {
        let gate = app.upstream.gate();
        let mut stream = paused_stream(&app, &gate, &format!("s{turn}"));
        clock.jump(&app, days);
        wait_for_checkpoint(&app);
        assert!(app.balance().held > 0, "the hold of a running stream is gone");
        gate.open();
        assert!(stream.rest().last().is_some_and(|event| event.is_done()));
        let balance = app.balance();
        assert_eq!((balance.held, balance.balance), (0, START - (turn as i64 + 1) * price(9, 9)));
        app.verify_ledger();
        clock.jump(&app, 0);
    }
    app.finish();
}

#[test]
fn a_hold_that_a_crash_left_is_recovered_whatever_the_clock_says_then() {
    for days in [YEAR, -YEAR] {
        let Some(clock) = Clock::find() else { return };
        let mut app = clock.server();
        let gate = app.upstream.gate();
        let stream = paused_stream(&app, &gate, "s");
        wait_for_checkpoint(&app);
        app.kill();
        drop(stream);
        clock.set(days);
        app.start_again();
        let hold = Snapshot::live(&app).only_hold().clone();
        assert_eq!((hold.state.as_str(), hold.output), ("settled", Some(5)));
        assert_eq!(app.balance().balance, START - hold.charged.expect("a charge"));
        clock.jump(&app, 0);
        app.say("And on", json!({"session_id": "s"}));
        app.restart();
        app.finish();
    }
}

#[test]
fn turns_under_a_wrong_clock_are_charged_or_refused_and_never_free() {
    let Some(clock) = Clock::find() else { return };
    let mut app = clock.server();
    app.upstream.always(Reply::long(3).usage(9, 3));
    let mut spent = 0;
    for days in [YEAR, 0, -YEAR, 0] {
        clock.jump(&app, days);
        for restarted in [false, true] {
            if restarted {
                app.restart();
            }
            for stream in [false, true] {
                let asked = app.upstream.asked();
                let answer = app.chat(&app.saying("Hello", json!({"stream": stream})));
                match answer.status {
                    200 => spent += price(9, 3),
                    400 => drop(answer.refused(400, "invalid_request_error", "model_not_priced")),
                    status => panic!("{status} {days} days off: {}", answer.text()),
                }
                assert!(answer.status == 200 || days < 0, "refused {days} days off: {}", answer.text());
                assert_eq!(app.upstream.asked() - asked, usize::from(answer.status == 200));
                assert_eq!(app.settled().balance, START - spent, "{days} days off");
            }
            app.verify_ledger();
        }
    }
    app.finish();
}

#[test]
fn a_key_expires_by_the_clock_and_comes_back_with_it() {
    let Some(clock) = Clock::find() else { return };
    let app = clock.server();
    let tomorrow = (OffsetDateTime::now_utc() + Duration::DAY).format(&Rfc3339).expect("a time");
    let made = app.new_key(&app.account_key, &app.agent_id, json!({"expires_at": tomorrow}));
    let key = made["key"].as_str().expect("a key is shown once");
    for (days, status) in [(0, 200), (YEAR, 401), (0, 200), (-YEAR, 200), (YEAR, 401), (0, 200)] {
        clock.jump(&app, days);
        assert_eq!(app.get(key, "/v1/models").status, status, "{days} days off");
    }
    app.finish();
}

#[test]
fn a_top_up_is_one_credit_whatever_the_clock_says_when_it_is_tried_again() {
    let Some(clock) = Clock::find() else { return };
    let mut app = clock.server();
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    let credit = |app: &App, reference: &str| {
        let body = json!({"amount": "1.5", "external_ref": reference});
        app.post(&app.operator_token, &path, &body).status
    };
    let mut credited = START;
    for (name, days) in [("now", 0), ("ahead", YEAR), ("behind", -YEAR)] {
        clock.jump(&app, days);
        assert_eq!(credit(&app, name), 201, "{days} days off");
        credited += 1_500_000_000;
    }
    for days in [0, YEAR, -YEAR, 0] {
        clock.jump(&app, days);
        for name in ["now", "ahead", "behind"] {
            assert_eq!(credit(&app, name), 200, "{name} once more, {days} days off");
        }
        assert_eq!(app.balance().balance, credited);
        app.restart();
    }
    // The order of the ledger is its numbers, whatever the times say.
    let seqs: Vec<i64> = app.transactions().iter().filter_map(|row| row["seq"].as_i64()).collect();
    assert_eq!(seqs, [4, 3, 2, 1]);
    app.finish();
}

#[test]
fn an_answer_is_given_again_for_a_day_by_the_clock_and_never_charged_twice_within_it() {
    let Some(clock) = Clock::find() else { return };
    let app = clock.server();
    app.upstream.always(Reply::long(3).usage(9, 3));
    let ask = || {
        let body = app.saying("Hello", json!({"stream": true}));
        let mut answer = app.chat_call(&body).header("Idempotency-Key", "once").open().ok();
        let id = answer.headers.required("x-completion-id").to_owned();
        // What the provider said of its chunks holds for the answer that is put together from them.
        let made = answer.rest()[0].json()["created"].as_i64().expect("a time");
        ((id, made), answer.headers.find("idempotent-replayed").is_some())
    };
    let (first, replayed) = ask();
    assert!(!replayed);
    clock.jump(&app, -YEAR);
    assert_eq!(ask(), (first.clone(), true), "a clock that is behind forgets no answer");
    clock.jump(&app, 0);
    assert_eq!(ask(), (first.clone(), true));
    clock.jump(&app, YEAR);
    let (second, replayed) = ask();
    assert!(!replayed && second != first, "an answer is kept for a year");
    assert_eq!(ask(), (second, true));
    let charges: Vec<Value> = app.charges();
    assert_eq!((charges.len(), app.upstream.asked()), (2, 2));
    clock.jump(&app, 0);
    app.finish();
}

#[test]
fn sessions_are_kept_for_the_days_that_their_account_says_by_the_clock() {
    let Some(clock) = Clock::find() else { return };
    let mut app = clock.server();
    let there = |app: &App| -> Vec<String> {
        let list = app.get(&app.account_key, "/v2/sessions").ok();
        let list = list.as_array().expect("a list");
        let mut names: Vec<String> =
            list.iter().map(|session| session["id"].as_str().expect("an id").to_owned()).collect();
        names.sort_unstable();
        names
    };
    let make = |app: &App, key: &str, agent: &str| {
        app.post(key, "/v2/sessions", &json!({"agent_id": agent})).is(201);
    };
    let (_, other) = app.account("1.00");
    let (others_agent, _) = app.agent_of(&other, json!({}));
    make(&app, &other, &others_agent);
    let (_, short) = app.account("1.00");
    let (short_agent, _) = app.agent_of(&short, json!({}));
    app.patch(&short, "/v2/account", &json!({"retention_days": 1})).is(200);
    // A session that has to go tells when a start has looked at all of them.
    let start_at = |app: &mut App, days: i64| {
        make(app, &short, &short_agent);
        let sweeps = |app: &App| app.log().matches("sessions were deleted for good").count();
        let before = sweeps(app);
        clock.set(days);
        app.restart();
        eventually("idle sessions are deleted", || (sweeps(app) > before).then_some(()));
        there(app)
    };
    app.patch(&app.account_key, "/v2/account", &json!({"retention_days": 30})).is(200);
    app.say("Hello", json!({"session_id": "left"}));
    app.say("Hello", json!({"session_id": "used"}));
    clock.set(-YEAR);
    app.restart();
    clock.set(20);
    app.say("And on", json!({"session_id": "used"}));
    assert_eq!(start_at(&mut app, 29), ["left", "used"]);
    clock.set(0);
    assert_eq!(start_at(&mut app, 31), ["used"]);
    app.say("And on", json!({"session_id": "used"}));
    assert_eq!(app.upstream.last().said().len(), 5, "nothing of a session in use is gone");
    let own = app.get(&app.account_key, "/v2/account").ok();
    assert_eq!(own["session_count"], 1);
    assert!(start_at(&mut app, 62).is_empty());
    // Its name is free again, and the money stays spent.
    app.say("Hello", json!({"session_id": "used"}));
    assert_eq!(app.upstream.last().said().len(), 1);
    assert_eq!(app.charges().len(), 5);
    let kept = app.get(&other, "/v2/sessions").ok();
    assert_eq!(kept.as_array().map(Vec::len), Some(1), "who set nothing keeps all");
    clock.jump(&app, 0);
    app.finish();
}

#[test]
fn a_session_is_closed_after_the_idle_time_of_its_agent_by_the_clock() {
    let Some(clock) = Clock::find() else { return };
    let mut app = clock.server();
    let (agent, _) = app.agent(json!({"expires_after": 2 * 24 * 60 * 60}));
    let body = app.saying("Hello", json!({"session_id": "s", "model": agent}));
    app.chat(&body).is(200);
    for restarted in [false, true] {
        for (days, status) in [(1, 200), (4, 410), (2, 200), (3, 200), (6, 410), (0, 200)] {
            clock.set(days);
            if restarted {
                app.restart();
            }
            let answer = app.chat(&body);
            assert_eq!(answer.status, status, "{days} days off, restarted: {restarted}: {}", answer.text());
            if status == 410 {
                answer.refused(410, "invalid_request_error", "session_closed");
            }
        }
    }
    assert_eq!(app.charges().len(), 9);
    clock.jump(&app, 0);
    app.finish();
}
